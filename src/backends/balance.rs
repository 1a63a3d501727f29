//! Which of several backends a dial tries first.

use std::str::FromStr;

use super::Entry;
use crate::random::below;

/// How a link chooses among its backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In the order of the list; of SRV records, by their priorities and weights.
    First,
    /// Each in its turn.
    RoundRobin,
    /// The one with the fewest connections of ours, for its weight.
    LeastConnections,
}

impl FromStr for Balance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "first" => Ok(Self::First),
            "round-robin" => Ok(Self::RoundRobin),
            "least-connections" => Ok(Self::LeastConnections),
            _ => Err(format!("\"{text}\" is none of first, round-robin and least-connections")),
        }
    }
}

impl Balance {
    /// Whether of two entries the one that is listed first is always chosen first.
    pub(super) fn goes_by_order(self, entry: &Entry) -> bool {
        self == Self::First && entry.weight.is_none()
    }

    /// Chooses one of `usable`, which is not empty and in the order of the list. Every dial has another `turn`.
    pub(super) fn choose<'a>(self, usable: &[&'a Entry], turn: usize) -> &'a Entry {
        let best = usable.iter().map(|entry| entry.priority).min().unwrap_or_default();
        let group: Vec<&Entry> = usable.iter().copied().filter(|entry| entry.priority == best).collect();
        match self {
            Self::First if group[0].weight.is_some() => by_weight(&group),
            Self::First => group[0],
            Self::RoundRobin => group[turn % group.len()],
            Self::LeastConnections => {
                let from = turn % group.len();
                // Begins elsewhere each time, so that equals share alike.
                let rotated = group[from..].iter().chain(&group[..from]).copied();
                rotated.min_by(|a, b| load(a, b).cmp(&load(b, a))).unwrap_or(group[0])
            }
        }
    }
}

/// What `entry` carries, on a scale that it shares with `other`.
fn load(entry: &Entry, other: &Entry) -> u64 {
    entry.backend.active() as u64 * u64::from(other.weight.unwrap_or(1).max(1))
}

/// RFC 2782: those without weight stand first, and the one is taken at which the running sum of the weights reaches a
/// random number, so that they have a very small chance.
fn by_weight<'a>(group: &[&'a Entry]) -> &'a Entry {
    let weight = |entry: &Entry| u64::from(entry.weight.unwrap_or_default());
    let sum: u64 = group.iter().map(|entry| weight(entry)).sum();
    if sum == 0 {
        let at = below(group.len() as u64);
        return group[usize::try_from(at).unwrap_or_default()];
    }
    let (without, with): (Vec<_>, Vec<_>) = group.iter().copied().partition(|entry| weight(entry) == 0);
    let reached = below(sum + 1);
    let mut running = 0;
    for entry in without.iter().chain(&with) {
        running += weight(entry);
        if running >= reached {
            return entry;
        }
    }
    group[0]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::{Backend, Entry, Place};
    use super::*;

    fn entry(port: u16, priority: u16, weight: Option<u16>) -> Entry {
        let endpoint = crate::config::target::endpoint(&format!("h:{port}"), None).unwrap();
        Entry { backend: Backend::new(endpoint), priority, weight }
    }

    fn shares(balance: Balance, entries: &[Entry], dials: usize) -> HashMap<String, usize> {
        let usable: Vec<_> = entries.iter().collect();
        let mut shares = HashMap::new();
        for turn in 0..dials {
            *shares.entry(balance.choose(&usable, turn).backend.to_string()).or_default() += 1;
        }
        shares
    }

    #[test]
    fn srv_weights_are_obeyed_within_the_lowest_priority() {
        let entries = [
            entry(1, 10, Some(60)),
            entry(2, 10, Some(30)),
            entry(3, 10, Some(10)),
            entry(4, 10, Some(0)),
            entry(5, 20, Some(1000)),
        ];
        let shares = shares(Balance::First, &entries, 100_000);
        // Five standard deviations of a share of 60 % are 775 of 100 000.
        for (backend, expected) in [("h:1", 60_000), ("h:2", 30_000), ("h:3", 10_000)] {
            let share = shares[backend];
            assert!(share.abs_diff(expected) < 1600, "{backend}: {share}");
        }
        assert!((1..3000).contains(&shares["h:4"]), "{shares:?}");
        assert!(!shares.contains_key("h:5"));
    }

    #[test]
    fn records_without_any_weight_share_alike() {
        let entries = [entry(1, 0, Some(0)), entry(2, 0, Some(0))];
        let shares = shares(Balance::First, &entries, 10_000);
        assert!(shares["h:1"].abs_diff(5000) < 300, "{shares:?}");
    }

    #[test]
    fn a_list_is_tried_in_its_order_or_in_turns() {
        let entries = [entry(1, 0, None), entry(2, 0, None), entry(3, 0, None)];
        assert_eq!(shares(Balance::First, &entries, 30)["h:1"], 30);
        assert_eq!(shares(Balance::RoundRobin, &entries, 30).values().collect::<Vec<_>>(), [&10; 3]);
    }

    #[test]
    fn the_fewest_connections_for_the_weight_win_and_equals_share() {
        let entries = [entry(1, 0, Some(3)), entry(2, 0, Some(1))];
        let usable: Vec<_> = entries.iter().collect();
        let mut places = Vec::new();
        for turn in 0..400 {
            let chosen = Balance::LeastConnections.choose(&usable, turn);
            places.push(Place::at(&chosen.backend));
        }
        assert!(entries[0].backend.active().abs_diff(300) <= 2, "{}", entries[0].backend.active());
        drop(places);
        assert_eq!(entries[0].backend.active(), 0);
    }
}

//! `BALANCE`: which of several backends a dial tries first.

use std::sync::Arc;

use super::Entry;
use crate::config::link::Balance;
use crate::random::below;

impl Balance {
    /// Whether entries of one priority are always chosen in the order of the list.
    pub(super) fn goes_by_order(self, entry: &Entry) -> bool {
        self == Self::First && entry.weight.is_none()
    }

    /// Chooses one of `usable`, which is not empty and in the order of the list. `turn` is the number of the dial.
    pub(super) fn choose<'a>(self, usable: &[&'a Arc<Entry>], turn: usize) -> &'a Arc<Entry> {
        let best = usable.iter().map(|entry| entry.priority).min().unwrap_or_default();
        let group: Vec<_> = usable.iter().copied().filter(|entry| entry.priority == best).collect();
        match self {
            Self::First if group[0].weight.is_some() => by_weight(&group),
            Self::First => group[0],
            Self::RoundRobin => group[turn % group.len()],
            Self::LeastConnections => {
                let from = turn % group.len();
                // Starts at another entry each time, so that entries of equal load get equal shares.
                let rotated = group[from..].iter().chain(&group[..from]).copied();
                rotated.min_by(|a, b| load(a, b).cmp(&load(b, a))).unwrap_or(group[0])
            }
        }
    }
}

/// The connections of `entry` relative to its weight, comparable with `load(other, entry)`. The servers of a name share
/// its weight.
fn load(entry: &Entry, other: &Entry) -> u64 {
    let parts = entry.weight.map_or(1, |_| entry.siblings);
    entry.active() as u64 * parts as u64 * u64::from(other.weight.unwrap_or(1).max(1))
}

/// RFC 2782: weights belong to names. Each server of the chosen name has the same chance.
fn by_weight<'a>(group: &[&'a Arc<Entry>]) -> &'a Arc<Entry> {
    let mut names = group.to_vec();
    names.dedup_by(|entry, before| entry.is_of(&before.listed));
    let chosen = name_by_weight(&names);
    let servers: Vec<_> = group.iter().copied().filter(|entry| entry.is_of(&chosen.listed)).collect();
    servers[usize::try_from(below(servers.len() as u64)).unwrap_or_default()]
}

/// RFC 2782: records of weight 0 come first, then the record is taken at which the running sum of the weights reaches a
/// random number. Weight 0 so has a very small chance.
fn name_by_weight<'a>(names: &[&'a Arc<Entry>]) -> &'a Arc<Entry> {
    let weight = |entry: &Entry| u64::from(entry.weight.unwrap_or_default());
    let sum: u64 = names.iter().map(|entry| weight(entry)).sum();
    if sum == 0 {
        let at = below(names.len() as u64);
        return names[usize::try_from(at).unwrap_or_default()];
    }
    let (without, with): (Vec<_>, Vec<_>) = names.iter().copied().partition(|entry| weight(entry) == 0);
    let reached = below(sum + 1);
    let mut running = 0;
    for entry in without.iter().chain(&with) {
        running += weight(entry);
        if running >= reached {
            return entry;
        }
    }
    names[0]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::{Entry, Lease, Listed};
    use super::*;
    use crate::net::resolve::Addresses;

    fn entry(port: u16, priority: u16, weight: Option<u16>) -> Arc<Entry> {
        let endpoint = crate::config::target::endpoint(&format!("10.0.0.1:{port}"), None).unwrap();
        Listed::new(endpoint).entries(priority, weight).remove(0)
    }

    fn shares(balance: Balance, entries: &[Arc<Entry>], dials: usize) -> HashMap<String, usize> {
        let usable: Vec<_> = entries.iter().collect();
        let mut shares = HashMap::new();
        for turn in 0..dials {
            *shares.entry(balance.choose(&usable, turn).to_string()).or_default() += 1;
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
        for (backend, expected) in [("10.0.0.1:1", 60_000), ("10.0.0.1:2", 30_000), ("10.0.0.1:3", 10_000)] {
            let share = shares[backend];
            assert!(share.abs_diff(expected) < 1600, "{backend}: {share}");
        }
        assert!((1..3000).contains(&shares["10.0.0.1:4"]), "{shares:?}");
        assert!(!shares.contains_key("10.0.0.1:5"));
    }

    fn several(name: &str, addresses: &[u8], weight: u16) -> Vec<Arc<Entry>> {
        let listed = Listed::new(crate::config::target::endpoint(&format!("{name}:1"), None).unwrap());
        let answer: Vec<_> = addresses.iter().map(|last| [10, 0, 0, *last].into()).collect();
        listed.resolved(&Addresses::whole(answer), tokio::time::Instant::now());
        listed.entries(0, Some(weight))
    }

    #[test]
    fn the_weight_of_a_name_is_shared_by_its_servers() {
        let entries: Vec<_> = [several("a", &[1, 2, 3], 1000), several("b", &[4], 1000)].concat();
        let shares = shares(Balance::First, &entries, 30_000);
        assert!(shares["b:1"].abs_diff(15_000) < 500, "{shares:?}");
        for last in 1..=3 {
            assert!(shares[&format!("a:1 (10.0.0.{last})")].abs_diff(5000) < 400, "{shares:?}");
        }
        let usable: Vec<_> = entries.iter().collect();
        let places: Vec<_> = (0..600)
            .map(|turn| {
                let chosen = Balance::LeastConnections.choose(&usable, turn);
                Lease::at(chosen, &chosen.backends[0])
            })
            .collect();
        let active: Vec<_> = entries.iter().map(|entry| entry.active()).collect();
        for (active, expected) in active.iter().zip([100_usize, 100, 100, 300]) {
            assert!(active.abs_diff(expected) <= 3, "{active}, not {expected}");
        }
        drop(places);
    }

    #[test]
    fn records_without_any_weight_share_alike() {
        let entries = [entry(1, 0, Some(0)), entry(2, 0, Some(0))];
        let shares = shares(Balance::First, &entries, 10_000);
        assert!(shares["10.0.0.1:1"].abs_diff(5000) < 300, "{shares:?}");
    }

    #[test]
    fn a_list_is_tried_in_its_order_or_in_turns() {
        let entries = [entry(1, 0, None), entry(2, 0, None), entry(3, 0, None)];
        assert_eq!(shares(Balance::First, &entries, 30)["10.0.0.1:1"], 30);
        assert_eq!(shares(Balance::RoundRobin, &entries, 30).values().collect::<Vec<_>>(), [&10; 3]);
    }

    #[test]
    fn the_fewest_connections_for_the_weight_win_and_equals_share() {
        let entries = [entry(1, 0, Some(3)), entry(2, 0, Some(1))];
        let usable: Vec<_> = entries.iter().collect();
        let mut places = Vec::new();
        for turn in 0..400 {
            let chosen = Balance::LeastConnections.choose(&usable, turn);
            places.push(Lease::at(chosen, &chosen.backends[0]));
        }
        assert!(entries[0].active().abs_diff(300) <= 2, "{}", entries[0].active());
        drop(places);
        assert_eq!(entries[0].active(), 0);
    }
}

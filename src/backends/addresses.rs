//! The addresses that a backend's name has had: whether it has moved, and which of them it has left.
//!
//! An answer that shares nothing with the ones before is a move. One that shares something may be a part of a longer
//! list, as some DNS servers give: an address is gone only when no answer had it for [`FORGOTTEN_AFTER`]. And where
//! answers go round in a circle, as those of names that stand for a whole group of servers do, nothing has moved at all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// How long an address is held for one of the name's own though other answers came, some of whose addresses are known.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);

/// As many returns to an address that had been left, within [`CIRCLE`], are no moves but a circle.
const RETURNS: usize = 3;
/// See [`RETURNS`].
const CIRCLE: Duration = Duration::from_mins(10);

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// The name's own addresses, and when an answer had them.
    known: HashMap<IpAddr, Instant>,
    /// Addresses that the name has left, and when.
    left: HashMap<IpAddr, Instant>,
    /// When it came back to one of those.
    returns: Vec<Instant>,
}

impl Addresses {
    /// Takes in an answer; returns the addresses that the name has left with it.
    pub(super) fn answered(&mut self, answer: &[IpAddr], now: Instant) -> Vec<IpAddr> {
        let recent = |at: &Instant| now.duration_since(*at) < CIRCLE;
        self.left.retain(|_, at| recent(at));
        self.returns.retain(recent);
        let moved = !answer.iter().any(|address| self.known.contains_key(address));
        if moved && answer.iter().any(|address| self.left.contains_key(address)) {
            self.returns.push(now);
        }
        let goes_round = self.returns.len() >= RETURNS;
        let left: Vec<IpAddr> = if answer.is_empty() {
            Vec::new()
        } else {
            let stale = |at: Instant| now.duration_since(at) >= FORGOTTEN_AFTER;
            let leaves = |address: &IpAddr, at: Instant| {
                !answer.contains(address) && (stale(at) || moved && !goes_round)
            };
            let known = self.known.iter();
            known.filter(|(address, at)| leaves(address, **at)).map(|(address, _)| *address).collect()
        };
        for address in &left {
            self.known.remove(address);
            self.left.insert(*address, now);
        }
        for address in answer {
            self.left.remove(address);
            self.known.insert(*address, now);
        }
        left
    }

    /// Whether the name has left this address.
    pub(super) fn has_left(&self, address: IpAddr) -> bool {
        !self.known.is_empty() && !self.known.contains_key(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_name_that_moves_there_and_back_leaves_each_time() {
        let mut addresses = Addresses::default();
        let now = Instant::now();
        assert!(addresses.answered(&[address(1)], now).is_empty());
        assert!(addresses.answered(&[address(1)], now).is_empty());
        assert_eq!(addresses.answered(&[address(2)], now), [address(1)]);
        assert!(addresses.has_left(address(1)) && !addresses.has_left(address(2)));
        assert_eq!(addresses.answered(&[address(1)], now), [address(2)]);
        assert!(addresses.has_left(address(2)) && !addresses.has_left(address(1)));
    }

    #[test]
    fn a_part_of_a_list_leaves_the_rest_for_a_while() {
        let mut addresses = Addresses::default();
        let start = Instant::now();
        assert!(addresses.answered(&[address(1), address(2)], start).is_empty());
        assert!(addresses.answered(&[address(2), address(3)], start).is_empty());
        let later = start + FORGOTTEN_AFTER;
        let left = addresses.answered(&[address(2)], later);
        assert!(left.contains(&address(1)) && left.contains(&address(3)) && left.len() == 2, "{left:?}");
    }

    #[test]
    fn answers_that_go_round_are_not_followed() {
        let mut addresses = Addresses::default();
        let now = Instant::now();
        let mut moves = 0;
        for _ in 0..20 {
            moves +=
                addresses.answered(&[address(1)], now).len() + addresses.answered(&[address(2)], now).len();
        }
        assert!(moves <= RETURNS, "{moves}");
        assert!(!addresses.has_left(address(1)) && !addresses.has_left(address(2)));
    }
}

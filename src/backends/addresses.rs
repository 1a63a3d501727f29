//! The addresses that a backend's name has had: whether it has moved, and which of them it has left.
//!
//! An answer that shares nothing with the ones before is a move. One that shares something may be a part of a longer
//! list, as some DNS servers give: an address is gone only when some [answers in a row](MISSED) were without it. And
//! where answers go round in a circle, as those of names that stand for a whole group of servers do, nothing has moved
//! at all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// So many answers in a row have to be without an address, though they had others of the name's own,
const MISSED: u32 = 3;
/// and for so long, before it is gone.
const MISSED_FOR: Duration = Duration::from_secs(5);

/// As many returns to an address that had been left, within [`CIRCLE`], are no moves but a circle.
const RETURNS: usize = 3;
/// See [`RETURNS`].
const CIRCLE: Duration = Duration::from_mins(10);

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// The name's own addresses.
    known: HashMap<IpAddr, Seen>,
    /// Addresses that the name has left, and when.
    left: HashMap<IpAddr, Instant>,
    /// When it came back to one of those.
    returns: Vec<Instant>,
}

/// The last answer that had an address.
#[derive(Debug)]
struct Seen {
    at: Instant,
    /// Answers since.
    missed: u32,
}

impl Addresses {
    /// Takes in an answer; returns the addresses that the name has left with it.
    pub(super) fn answered(&mut self, answer: &[IpAddr], now: Instant) -> Vec<IpAddr> {
        let recent = |at: &Instant| now.duration_since(*at) < CIRCLE;
        self.left.retain(|_, at| recent(at));
        self.returns.retain(recent);
        if answer.iter().any(|address| self.left.contains_key(address)) {
            self.returns.push(now);
        }
        let goes_round = self.returns.len() >= RETURNS;
        let moved = !answer.iter().any(|address| self.known.contains_key(address));
        for address in answer {
            self.left.remove(address);
            self.known.insert(*address, Seen { at: now, missed: 0 });
        }
        let mut left = Vec::new();
        self.known.retain(|address, seen| {
            if answer.contains(address) {
                return true;
            }
            seen.missed += 1;
            let absent = now.duration_since(seen.at);
            let gone = if goes_round {
                absent >= CIRCLE
            } else {
                moved || seen.missed >= MISSED && absent >= MISSED_FOR
            };
            if gone {
                left.push(*address);
            }
            !gone
        });
        self.left.extend(left.iter().map(|address| (*address, now)));
        left
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
        assert_eq!(addresses.answered(&[address(1)], now), [address(2)]);
    }

    #[test]
    fn a_part_of_a_list_leaves_the_rest_for_some_answers() {
        let mut addresses = Addresses::default();
        let start = Instant::now();
        assert!(addresses.answered(&[address(1), address(2)], start).is_empty());
        for second in [2, 4] {
            assert!(addresses.answered(&[address(2)], start + Duration::from_secs(second)).is_empty());
        }
        assert_eq!(addresses.answered(&[address(2)], start + Duration::from_secs(6)), [address(1)]);
    }

    #[test]
    fn a_long_silence_of_dns_is_not_many_answers() {
        let mut addresses = Addresses::default();
        let start = Instant::now();
        assert!(addresses.answered(&[address(1), address(2)], start).is_empty());
        assert!(addresses.answered(&[address(2)], start + CIRCLE).is_empty());
    }

    #[test]
    fn parts_of_a_long_list_are_not_followed() {
        let mut addresses = Addresses::default();
        let start = Instant::now();
        let mut moves = 0;
        for second in 0..120 {
            let answer = [second % 7, (second + 1) % 7].map(|last| address(u8::try_from(last).unwrap()));
            moves += addresses.answered(&answer, start + Duration::from_secs(2 * second)).len();
        }
        assert!(moves <= 7, "{moves}");
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
    }
}

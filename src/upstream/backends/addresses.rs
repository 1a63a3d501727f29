//! The address history of a name: decides from DNS answers which addresses are gone.
//!
//! - An answer that shares no address with the known ones is a move: all others of its family are gone at once.
//! - An answer that shares some may be part of a longer list, as some DNS servers return: an address is gone only after
//!   it was missing from [several answers in a row](MISSED). The same holds for the last address of a family.
//! - Where answers rotate, as for names of a whole group of servers, no address is gone until it was missing for
//!   [`ROTATION`].
//! - An answer for one address family (A without AAAA) changes nothing in the other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::net::resolve::Addresses as Answer;

/// An address is gone after this many answers in a row without it (that share other known addresses), and
/// [`MISSED_FOR`].
const MISSED: u32 = 3;
/// The minimum time since the last answer with an address before it is gone.
const MISSED_FOR: Duration = Duration::from_secs(5);

/// This many returns to an address that was gone, within [`ROTATION`], mean that the answers rotate.
const RETURNS: usize = 3;
/// For how long gone addresses are remembered, to recognise rotating answers; see [`RETURNS`].
const ROTATION: Duration = Duration::from_mins(10);

/// The address history of one name.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Its current addresses.
    known: HashMap<IpAddr, Seen>,
    /// Addresses that are gone, and since when.
    left: HashMap<IpAddr, Instant>,
    /// When an answer had one of those again.
    returns: Vec<Instant>,
}

/// The last answer that had an address.
#[derive(Debug)]
struct Seen {
    at: Instant,
    /// Answers without it since.
    missed: u32,
}

impl Addresses {
    /// Takes in an answer; returns the addresses that are gone with it.
    pub(super) fn answered(&mut self, answer: &Answer, now: Instant) -> Vec<IpAddr> {
        let recent = |at: &Instant| now.duration_since(*at) < ROTATION;
        self.left.retain(|_, at| recent(at));
        self.returns.retain(recent);
        if answer.iter().any(|address| self.left.contains_key(address)) {
            self.returns.push(now);
        }
        let rotates = self.returns.len() >= RETURNS;
        let shares_nothing =
            self.known.keys().all(|address| answer.tell_of(*address) && !answer.contains(address));
        let has_another = |than: &IpAddr| answer.iter().any(|address| address.is_ipv4() == than.is_ipv4());
        for address in answer.iter() {
            self.left.remove(address);
            self.known.insert(*address, Seen { at: now, missed: 0 });
        }
        let mut left = Vec::new();
        self.known.retain(|address, seen| {
            if answer.contains(address) || !answer.tell_of(*address) {
                return true;
            }
            seen.missed += 1;
            let absent = now.duration_since(seen.at);
            let gone = if rotates {
                absent >= ROTATION
            } else {
                shares_nothing && has_another(address) || seen.missed >= MISSED && absent >= MISSED_FOR
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

    fn address_6(last: u16) -> IpAddr {
        [0xfd00, 0, 0, 0, 0, 0, 0, last].into()
    }

    fn whole<const N: usize>(addresses: [IpAddr; N]) -> Answer {
        Answer::whole(addresses)
    }

    /// An answer for one address family.
    fn half(address: IpAddr) -> Answer {
        Answer::half([address])
    }

    #[test]
    fn half_an_answer_moves_nothing_of_the_other_kind() {
        let mut addresses = Addresses::default();
        let start = Instant::now();
        assert!(addresses.answered(&whole([address(1), address_6(1)]), start).is_empty());
        for second in 1..20 {
            let answer = half(if second % 2 == 0 { address(1) } else { address_6(1) });
            assert!(addresses.answered(&answer, start + Duration::from_secs(second)).is_empty());
        }
        // The answer leaves the IPv6 address as it is, so it is not a move.
        assert!(addresses.answered(&half(address(2)), start).is_empty());
    }

    #[test]
    fn one_kind_of_address_moves_though_nobody_knows_of_the_other() {
        let mut addresses = Addresses::default();
        let now = Instant::now();
        assert!(addresses.answered(&half(address(1)), now).is_empty());
        assert!(addresses.answered(&half(address_6(1)), now).is_empty());
        let mut addresses = Addresses::default();
        assert!(addresses.answered(&half(address(1)), now).is_empty());
        assert_eq!(addresses.answered(&half(address(2)), now), [address(1)]);
    }

    #[test]
    fn a_kind_of_address_is_gone_when_it_has_been_missing_for_some_answers() {
        let mut addresses = Addresses::default();
        let start = Instant::now();
        assert!(addresses.answered(&whole([address(1)]), start).is_empty());
        for second in [2, 4] {
            let answer = whole([address_6(1)]);
            assert!(addresses.answered(&answer, start + Duration::from_secs(second)).is_empty());
        }
        assert_eq!(addresses.answered(&whole([address_6(1)]), start + Duration::from_secs(6)), [address(1)]);
    }

    #[test]
    fn a_name_that_moves_there_and_back_leaves_each_time() {
        let mut addresses = Addresses::default();
        let now = Instant::now();
        assert!(addresses.answered(&whole([address(1)]), now).is_empty());
        assert!(addresses.answered(&whole([address(1)]), now).is_empty());
        assert_eq!(addresses.answered(&whole([address(2)]), now), [address(1)]);
        assert_eq!(addresses.answered(&whole([address(1)]), now), [address(2)]);
    }

    #[test]
    fn a_part_of_a_list_leaves_the_rest_for_some_answers() {
        let mut addresses = Addresses::default();
        let start = Instant::now();
        assert!(addresses.answered(&whole([address(1), address(2)]), start).is_empty());
        for second in [2, 4] {
            assert!(addresses.answered(&whole([address(2)]), start + Duration::from_secs(second)).is_empty());
        }
        assert_eq!(addresses.answered(&whole([address(2)]), start + Duration::from_secs(6)), [address(1)]);
    }

    #[test]
    fn a_long_silence_of_dns_is_not_many_answers() {
        let mut addresses = Addresses::default();
        let start = Instant::now();
        assert!(addresses.answered(&whole([address(1), address(2)]), start).is_empty());
        assert!(addresses.answered(&whole([address(2)]), start + ROTATION).is_empty());
    }

    #[test]
    fn parts_of_a_long_list_are_not_followed() {
        let mut addresses = Addresses::default();
        let start = Instant::now();
        let mut moves = 0;
        for second in 0..120 {
            let answer = [second % 7, (second + 1) % 7].map(|last| address(u8::try_from(last).unwrap()));
            moves += addresses.answered(&whole(answer), start + Duration::from_secs(2 * second)).len();
        }
        assert!(moves <= 7, "{moves}");
    }

    #[test]
    fn answers_that_go_round_are_not_followed() {
        let mut addresses = Addresses::default();
        let now = Instant::now();
        let mut moves = 0;
        for _ in 0..20 {
            moves += addresses.answered(&whole([address(1)]), now).len()
                + addresses.answered(&whole([address(2)]), now).len();
        }
        assert!(moves <= RETURNS, "{moves}");
    }
}

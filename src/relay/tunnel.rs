//! A tunnel: two copies, whatever the protocol.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::copy::with_buffer;
use super::drain::{Handle, Moved};
use super::pair::Pair;
use super::{End, Limits, Party};
use crate::net::Side;

/// The state of a connection that is tunnelled.
#[derive(Debug)]
pub struct Tunnel(Pair);

impl Tunnel {
    /// `early` is what the client has sent already, `leading` what the target has; they go first.
    pub fn new(early: Vec<u8>, leading: Vec<u8>, limits: Limits) -> Self {
        Self(Pair::new(early, leading, limits))
    }

    /// Bytes so far.
    pub fn moved(&self) -> Moved {
        self.0.moved()
    }

    /// Copies until both sides are done, one breaks, or a limit or request ends it. The streams are left to the caller,
    /// who closes or resets them.
    pub async fn run(&mut self, client: &mut impl Side, target: &mut impl Side, handle: &Handle) -> End {
        poll_fn(|cx| self.poll(cx, client, target, handle)).await
    }

    /// Copies as far as it goes now.
    pub fn poll<C, T>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        target: &mut T,
        handle: &Handle,
    ) -> Poll<End>
    where
        C: Side,
        T: Side,
    {
        let pair = &mut self.0;
        let before = pair.moved();
        with_buffer(|buffer| {
            // The target first: what it says in this turn can't be the answer to what the client says in this turn.
            if let Poll::Ready(Err(failed)) = pair.to_client.poll(cx, target, client, buffer) {
                pair.failed(failed, Party::Target, Party::Client);
                // What is left to be passed on may have nothing else that wakes it.
                cx.waker().wake_by_ref();
            }
            if let Poll::Ready(Err(failed)) = pair.to_target.poll(cx, client, target, buffer) {
                pair.failed(failed, Party::Client, Party::Target);
                cx.waker().wake_by_ref();
            }
        });
        pair.count(before, 0, handle);
        if pair.are_over() {
            return Poll::Ready(pair.end(End::Closed));
        }
        if let Poll::Ready(leave) = handle.poll_drain(cx) {
            pair.leave_by(leave);
        }
        pair.poll_clock(cx, client, Some(target), false, None)
    }
}

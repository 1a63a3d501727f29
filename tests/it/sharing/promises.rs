//! What is promised for sessions holds for those that share upstreams: the same tests, where all share one.

use super::{all_on_one, upstreams};
use crate::sessions::{failover, moves, passwords, resets, sentinel, silence};
use crate::support::Ambassador;

/// `SENTINEL FAILOVER` under load.
#[test]
fn a_failover_costs_no_client_anything() {
    sentinel::a_failover_costs_nothing(all_on_one);
}

/// A primary that is killed.
#[test]
fn a_killed_primary_costs_readers_nothing() {
    sentinel::a_killed_primary_costs_little(all_on_one);
}

/// A primary that stands still.
#[test]
fn a_frozen_primary_costs_readers_nothing() {
    sentinel::a_frozen_primary_costs_little(all_on_one);
}

/// `FAILOVER` between two servers under load.
#[test]
fn a_planned_failover_costs_no_client_anything_on_any_server() {
    failover::a_planned_failover_costs_nothing(all_on_one);
}

/// A primary that is demoted without a word.
#[test]
fn a_write_that_was_refused_is_sent_to_the_new_primary() {
    failover::a_refused_write_goes_to_the_new_primary(all_on_one);
    failover::the_last_word_goes_to_the_new_primary(all_on_one);
}

/// What can't be sent again is told as it is.
#[test]
fn who_can_not_be_served_elsewhere_hears_what_the_server_said() {
    failover::scripts_and_transactions_hear_the_server(all_on_one);
    failover::a_write_that_no_server_takes_is_refused(all_on_one);
}

/// What one that all share has written at another server.
#[test]
fn a_wait_for_writes_of_before_a_failover_ends_the_session() {
    failover::a_wait_for_another_servers_writes_ends_the_session(all_on_one);
}

/// All have gone to the new place by way of the one that they share.
#[track_caller]
fn expect_shared(ambassador: Option<Ambassador>) {
    let Some(ambassador) = ambassador else { return };
    assert_eq!(["own", "lent"].map(|kind| upstreams(&ambassador, kind)), [0, 0]);
}

/// A name that leads somewhere else.
#[test]
fn a_name_moves_under_hundreds_of_busy_clients() {
    expect_shared(moves::a_name_moves(all_on_one));
}

/// An SRV record that names another target.
#[test]
fn a_service_record_moves_under_hundreds_of_busy_clients() {
    expect_shared(moves::a_service_record_moves(all_on_one));
}

/// A line of a file.
#[test]
fn a_line_of_a_file_moves_under_hundreds_of_busy_clients() {
    expect_shared(moves::a_line_of_a_file_moves(all_on_one));
}

/// A firewall that has forgotten the upstream that all share.
#[test]
fn a_quiet_upstream_that_does_not_answer_is_replaced_for_all() {
    silence::one_that_does_not_answer_is_replaced(all_on_one);
}

/// RESET, by whatever upstream it goes.
#[test]
fn after_a_reset_all_is_as_at_first_on_every_server() {
    resets::a_reset_changes_nothing(all_on_one, |_| String::new());
}

/// With replies that are left out.
#[test]
fn a_reset_behind_replies_that_are_left_out() {
    resets::a_reset_behind_left_out_replies(all_on_one);
}

/// RESET that a user may not send.
#[test]
fn a_reset_that_is_refused_changes_nothing() {
    resets::a_refused_reset_changes_nothing(all_on_one);
}

/// What clients show of passwords is nobody's business but ours; the server hears of the one that is shared, and of one
/// that is lent.
#[test]
fn every_auth_is_absorbed_wherever_it_comes() {
    passwords::every_auth_is_absorbed(all_on_one, 2);
}

/// With HELLO too.
#[test]
fn every_hello_with_a_password_is_absorbed_wherever_it_comes() {
    passwords::every_hello_is_absorbed(all_on_one);
}

/// A password that is required, again and again, right and wrong.
#[test]
fn a_required_password_may_come_again() {
    passwords::a_required_password_comes_again(all_on_one);
}

/// After the one that is shared was cut.
#[test]
fn an_absorbed_password_does_not_pin_a_session() {
    passwords::an_absorbed_password_pins_nothing(all_on_one);
}

/// What no server knows that is not a managed one.
#[test]
fn maintenance_notifications_are_not_to_be_had() {
    passwords::no_maintenance_notifications(all_on_one);
}

/// Passwords of any length.
#[test]
fn a_long_token_may_come_in_pieces() {
    passwords::a_long_token_comes_in_pieces(all_on_one);
}

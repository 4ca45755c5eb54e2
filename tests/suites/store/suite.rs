//! The list of all tests of the suite. A function that is missing here is dead code, which the compiler reports.

/// Makes one test of each function for one backend, from a name, a closure that makes a new backend or returns `None`
/// if it cannot be tested here, and the number of cases of the random steps.
macro_rules! store_suite {
    ($backend:ident, $new:expr, $cases:literal) => {
        store_suite! { each test $backend, $new, $cases }
    };
    // Makes one test of each group of functions, for a backend that takes seconds to start.
    (in groups $backend:ident, $new:expr, $cases:literal) => {
        store_suite! { each group $backend, $new, $cases }
    };
    (each $how:ident $backend:ident, $new:expr, $cases:literal) => {
        store_suite! { @ $how $backend, $new, $cases,
            lifecycle {
                a_new_record_reads_back_as_it_was_inserted
                an_id_can_be_inserted_once
                only_a_warming_record_can_be_inserted
                an_unknown_instance_is_unknown_to_every_step
                an_offer_makes_a_warming_instance_ready_once
                a_withdrawn_instance_is_not_claimed_until_it_is_offered_again
                an_unassigned_instance_can_be_retired
                an_assigned_or_expired_instance_cannot_be_retired
                an_unassigned_instance_that_fails_is_gone_and_never_claimed
                an_assigned_instance_that_fails_is_expired_with_that_reason
                a_failure_after_the_deadline_counts_as_an_expiry
                a_released_instance_is_gone_at_once
                only_an_assigned_instance_can_be_released
                counts_follow_every_transition
                a_list_has_every_record_of_its_node_and_of_no_other
                the_store_answers_a_ping
            }
            deadlines {
                an_extension_counts_from_the_deadline
                an_extension_beyond_the_maximum_ttl_changes_nothing
                only_a_running_lease_can_be_extended
                an_overdue_instance_reads_as_expired_before_any_sweep
                a_sweep_stores_what_readers_saw_before_it
                a_sweep_returns_what_expired_once
                a_sweep_handles_no_more_than_its_limit
                a_small_limit_starves_no_template
                an_extended_instance_is_not_swept_at_its_first_deadline
                an_expired_instance_is_known_for_ten_minutes_and_then_removed
                a_failed_instance_is_known_for_ten_minutes_too
                an_instance_long_overdue_expires_and_is_removed_in_one_sweep
                the_next_deadline_is_the_earliest
            }
            claims {
                a_claim_without_a_ready_instance_is_empty
                the_lease_is_as_claimed
                the_instance_that_was_ready_first_is_claimed_first
                a_claim_prefers_its_own_node_and_then_the_instance_that_has_been_ready_longest
                a_claim_never_gets_an_instance_of_another_template
                a_repeated_claim_gets_the_same_instance
                a_repeated_claim_sees_the_instance_as_it_is_now
                a_claim_that_was_empty_can_be_repeated
                a_claim_repeated_after_a_release_is_empty
                a_claim_repeated_after_an_expiry_is_empty
                a_claim_repeated_after_a_failure_is_empty
                a_token_can_be_used_again_some_time_after_its_instance_ended
            }
            delivery {
                an_undone_claim_leaves_everything_as_it_was
                the_instance_of_an_undone_claim_is_the_next_to_be_claimed
                an_undone_claim_is_not_charged
                the_token_of_an_undone_claim_gets_nothing
                a_claim_that_is_undone_before_it_arrives_gets_nothing
                a_confirmed_claim_cannot_be_undone
                an_extension_confirms_the_claim
                the_claim_of_an_ended_instance_can_be_neither_confirmed_nor_undone
                an_unconfirmed_claim_ends_after_a_minute
                a_confirmed_claim_lasts_as_long_as_its_lease
                many_claims_are_confirmed_in_one_call
                of_an_undo_and_a_confirmation_one_wins
            }
            rate_limits {
                a_visitor_gets_what_the_limit_allows_and_is_then_refused_with_a_wait
                the_quota_is_that_of_the_tighter_window
                the_daily_limit_holds
                without_limits_nothing_is_counted
                an_empty_claim_is_not_charged
                a_refused_claim_is_not_charged_and_may_be_repeated
                a_repeated_claim_is_charged_once
                a_release_refunds_no_charge
                visitors_are_counted_separately
                templates_are_counted_separately
                a_limit_is_reported_even_when_nothing_is_ready
                visitors_who_share_a_wide_network_share_its_multiple_of_the_limits
                a_visitor_has_no_more_instances_at_a_time_than_allowed
                an_instance_that_ends_early_frees_its_place
                a_wide_network_bounds_the_instances_at_a_time_too
                a_lower_limit_waits_for_as_many_ends_as_it_takes
                an_extension_delays_the_next_claim_at_a_time
                of_two_reached_limits_the_one_with_the_longer_wait_is_reported
                an_extension_is_charged_to_the_visitor_of_the_lease
                an_extension_beyond_the_limits_changes_nothing
                a_lease_without_limits_is_extended_without_a_charge
            }
            routes {
                the_stream_has_each_change_of_an_assigned_instance_in_order
                the_stream_has_no_event_of_an_unassigned_instance
                the_stream_can_be_followed_from_any_cursor
                a_wait_without_a_change_returns_no_events
                a_waiting_follower_is_woken
                no_wake_up_is_lost
                a_follower_that_stops_waiting_loses_no_event
                a_cursor_before_the_oldest_event_is_a_gap
                a_cursor_beyond_the_newest_event_is_a_gap
                a_snapshot_has_the_assigned_and_the_expired_instances
                a_snapshot_with_its_events_equals_a_new_snapshot
                snapshots_taken_during_changes_lose_nothing
            }
            nodes {
                a_node_that_sends_heartbeats_is_on_record_with_what_it_last_reported
                the_first_heartbeat_is_marked_and_all_nodes_share_a_secret
                the_silence_of_a_node_grows_while_another_sends_heartbeats
                an_outage_of_the_store_does_not_count_as_silence
                no_instance_of_a_draining_node_is_claimed
                only_a_node_on_record_can_be_drained
                no_instance_of_a_silent_node_is_claimed
                counts_are_available_for_each_node
                all_instances_of_a_dead_node_end_and_the_assigned_ones_are_reported
                a_node_whose_heartbeat_comes_in_time_keeps_its_instances
                all_instances_of_a_node_that_leaves_end_at_once
                of_two_evictions_each_ended_instance_is_reported_to_one
                an_evicted_node_is_known_until_it_comes_back_or_is_forgotten
            }
            races {
                of_many_claims_exactly_as_many_as_are_ready_are_granted
                one_claim_sent_many_times_at_once_gets_one_instance_and_one_charge
                a_rate_limit_holds_against_concurrent_claims
                of_many_claims_for_the_last_place_one_wins
                of_many_extensions_as_many_as_the_limit_allows_win
                of_two_releases_one_wins
                of_two_extensions_to_the_limit_one_wins
                a_failure_against_a_claim_has_one_order
                a_retirement_against_a_claim_has_one_winner
                a_release_against_a_sweep_has_one_winner
                of_two_sweeps_each_expiry_is_reported_to_one
            }
            stress {
                concurrent_random_steps_keep_every_invariant
            }
        }
    };
    (@ group $backend:ident, $new:expr, $cases:literal, $($group:ident { $($test:ident)+ })+) => {
        mod $backend {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $group() {
                // Keeps what all of them share alive until the end of the test.
                let Some(_first) = ($new)().await else { return };
                $({
                    let Some(backend) = ($new)().await else { return };
                    eprintln!(stringify!($test));
                    let fixture = crate::suites::store::fixture::StoreFixture::new(backend);
                    crate::suites::store::$group::$test(&fixture).await;
                    fixture.check_invariants().await;
                })+
            })+

            #[test]
            fn random_steps() {
                let _first = futures_util::FutureExt::now_or_never(($new)());
                crate::suites::store::random_steps::random_steps_agree_with_the_reference_model($new, $cases);
            }
        }
    };
    (@ test $backend:ident, $new:expr, $cases:literal, $($group:ident { $($test:ident)+ })+) => {
        mod $backend {
            $(mod $group {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $test() {
                    let Some(backend) = ($new)().await else { return };
                    let fixture = crate::suites::store::fixture::StoreFixture::new(backend);
                    crate::suites::store::$group::$test(&fixture).await;
                    fixture.check_invariants().await;
                })+
            })+

            mod random_steps {
                #[test]
                fn random_steps_agree_with_the_reference_model() {
                    crate::suites::store::random_steps::random_steps_agree_with_the_reference_model($new, $cases);
                }
            }
        }
    };
}

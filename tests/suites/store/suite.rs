//! The list of all sentences. One that is missing here is dead code, which the compiler reports.

/// Makes a test of each sentence for one backend, from its name and a closure that makes a new one, or
/// says that this cannot be tried here; last, how many random lives it is led through.
macro_rules! store_suite {
    ($backend:ident, $new:expr, $lives:literal) => {
        store_suite! { of tests $backend, $new, $lives }
    };
    // A test for each group of them only, for a backend that takes seconds to begin.
    (in groups $backend:ident, $new:expr, $lives:literal) => {
        store_suite! { of groups $backend, $new, $lives }
    };
    (of $how:ident $backend:ident, $new:expr, $lives:literal) => {
        store_suite! { @ $how $backend, $new, $lives,
            lifecycle {
                a_new_record_is_read_back_as_it_was_given
                an_id_is_taken_once
                only_a_warming_record_is_taken
                an_unknown_instance_is_unknown_to_every_step
                an_offer_makes_a_warming_instance_ready_once
                the_pool_takes_back_what_nobody_has
                what_a_visitor_has_or_had_is_not_taken_back
                an_unused_instance_that_dies_is_gone_and_never_given_out
                an_assigned_instance_that_dies_is_expired_and_says_so
                a_death_after_the_deadline_is_no_failure
                a_released_instance_is_gone_at_once
                only_what_a_visitor_has_can_be_released
                counts_follow_every_step
                a_list_has_every_record_of_its_node_and_of_no_other
                the_store_answers
            }
            deadlines {
                an_extension_counts_from_the_deadline
                an_extension_beyond_the_longest_time_changes_nothing
                only_a_running_lease_can_be_extended
                an_overdue_instance_reads_as_expired_before_any_sweep
                a_sweep_leaves_what_readers_saw_before_it
                a_sweep_returns_what_expired_once
                a_sweep_does_no_more_than_its_limit
                a_small_limit_starves_no_template
                an_extended_instance_is_not_swept_at_its_first_deadline
                an_expired_instance_is_known_for_ten_minutes_and_then_forgotten
                a_failed_instance_is_known_for_ten_minutes_too
                one_long_overdue_is_expired_and_forgotten_in_one_sweep
                the_next_deadline_is_the_first_of_all
            }
            claims {
                nothing_ready_is_empty
                the_lease_is_as_claimed
                the_first_ready_is_the_first_given
                the_own_node_comes_first_and_then_the_longest_ready_of_the_others
                a_template_is_not_served_with_anothers_instances
                a_repeated_claim_gets_the_same_instance
                a_repeated_claim_sees_the_instance_as_it_is_now
                a_claim_that_found_nothing_may_be_repeated
                a_claim_repeated_after_a_release_gets_nothing
                a_claim_repeated_after_an_expiry_gets_nothing
                a_claim_repeated_after_a_failure_gets_nothing
                a_token_is_forgotten_some_time_after_its_instance
            }
            delivery {
                a_claim_taken_back_leaves_all_as_it_was
                what_is_taken_back_is_the_next_to_be_given
                a_claim_taken_back_is_not_charged
                a_token_whose_claim_was_taken_back_gets_nothing
                a_claim_that_is_taken_back_before_it_arrives_gets_nothing
                what_is_confirmed_is_not_taken_back
                what_is_extended_is_confirmed
                what_has_ended_is_neither_confirmed_nor_taken_back
                an_unconfirmed_claim_ends_after_a_minute
                a_confirmed_claim_lasts_as_long_as_its_lease
                many_are_confirmed_at_once
                of_a_taking_back_and_a_confirmation_one_wins
            }
            rate_limits {
                a_visitor_gets_what_the_limit_allows_and_then_a_wait
                the_quota_is_of_the_tighter_window
                a_day_holds_no_more_than_its_limit
                without_limits_nothing_is_counted
                a_claim_that_found_nothing_is_not_charged
                a_refused_claim_is_not_charged_and_may_be_repeated
                a_repeated_claim_is_charged_once
                a_release_gives_no_charge_back
                each_visitor_is_counted_alone
                each_template_is_counted_alone
                a_limit_is_told_even_when_nothing_is_ready
            }
            routes {
                the_stream_tells_each_change_of_an_assigned_instance_in_order
                the_stream_is_silent_about_what_no_visitor_has
                the_stream_can_be_followed_from_any_place
                a_wait_without_news_ends_empty
                a_waiting_follower_is_woken
                no_wake_up_is_lost
                a_follower_that_gives_up_loses_nothing
                a_place_that_the_stream_no_longer_holds_is_a_gap
                a_place_that_the_stream_never_had_is_a_gap
                a_snapshot_has_what_proxies_must_know
                a_snapshot_followed_is_as_good_as_a_new_one
                snapshots_taken_in_the_midst_of_changes_lose_nothing
            }
            nodes {
                a_node_that_beats_is_on_record_with_what_it_told_last
                the_first_beat_is_told_from_the_others_and_all_share_a_secret
                a_nodes_silence_grows_while_others_are_heard
                while_the_store_was_away_nobody_was_silent
                a_draining_node_gives_nothing_out
                only_a_node_on_record_is_drained
                what_a_silent_node_has_is_given_to_nobody
                counts_are_told_of_each_node_too
                all_that_a_dead_node_had_ends_and_visitors_are_told
                a_node_that_is_heard_in_time_loses_nothing
                a_node_that_stops_ends_what_it_has_at_once
                of_two_burials_each_end_is_told_to_one
            }
            races {
                of_many_claims_exactly_as_many_as_are_ready_are_granted
                one_claim_sent_many_times_at_once_gets_one_instance_and_one_charge
                a_limit_holds_against_claims_at_once
                of_two_releases_one_wins
                of_two_extensions_to_the_limit_one_wins
                a_failure_against_a_claim_has_one_order
                a_retirement_against_a_claim_has_one_winner
                a_release_against_a_sweep_has_one_winner
                of_two_sweeps_each_expiry_is_told_to_one
            }
            stress {
                a_storm_of_steps_leaves_all_in_order
            }
        }
    };
    (@ groups $backend:ident, $new:expr, $lives:literal, $($group:ident { $($sentence:ident)+ })+) => {
        mod $backend {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $group() {
                // Kept until the end, and with it what all of them share.
                let Some(_first) = ($new)().await else { return };
                $({
                    let Some(backend) = ($new)().await else { return };
                    eprintln!(stringify!($sentence));
                    let stage = crate::suites::store::fixture::Stage::new(backend);
                    crate::suites::store::$group::$sentence(&stage).await;
                    stage.sound().await;
                })+
            })+

            #[test]
            fn random_steps() {
                let _first = futures_util::FutureExt::now_or_never(($new)());
                crate::suites::store::random_steps::random_steps_do_what_a_plain_model_does($new, $lives);
            }
        }
    };
    (@ tests $backend:ident, $new:expr, $lives:literal, $($group:ident { $($sentence:ident)+ })+) => {
        mod $backend {
            $(mod $group {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $sentence() {
                    let Some(backend) = ($new)().await else { return };
                    let stage = crate::suites::store::fixture::Stage::new(backend);
                    crate::suites::store::$group::$sentence(&stage).await;
                    stage.sound().await;
                })+
            })+

            mod random_steps {
                #[test]
                fn random_steps_do_what_a_plain_model_does() {
                    crate::suites::store::random_steps::random_steps_do_what_a_plain_model_does($new, $lives);
                }
            }
        }
    };
}

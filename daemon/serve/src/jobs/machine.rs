//! The states of a job and what leads from one to the next: the only place that decides it. No clock, no store, no threads.
//!
//! ```text
//! queued → running → done | failed | queued again (failed, a try is left; or the service left)
//! running → pausing → paused → queued       running → cancelling → cancelled
//! ```

use diptych_store::{JobRecord, JobState, Milliseconds};

/// Largest pause between two tries.
const LONGEST_WAIT_SECONDS: u64 = 3600;

/// What happens to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobEvent {
    Start {
        version: String,
        step: u64,
    },
    Ended(End),
    Pause,
    Resume,
    Cancel,
    Retry,
    /// The service went away without hearing how it ended: a crash, a power cut. `step`: its run's newest checkpoint.
    Lost {
        step: u64,
    },
}

/// How the work of a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Done {
        note: Option<String>,
    },
    /// As it was asked to, with everything saved.
    Stopped,
    Failed(String),
}

/// How often, and how soon, a job is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tries {
    pub(super) attempts: u32,
    pub(super) retry_seconds: u64,
}

impl Tries {
    /// Milliseconds before the try after the `attempt`-th.
    fn wait(self, attempt: u32) -> i64 {
        let factor = 4_u64.saturating_pow(attempt.saturating_sub(1));
        (1000 * self.retry_seconds.saturating_mul(factor).min(LONGEST_WAIT_SECONDS)) as i64
    }
}

/// Whether a job has waited long enough before its next try. A time further away than any wait was noted by a clock that has been set
/// back since: such a job is due, or a wrong date would hold it for as long as the date was wrong.
pub(super) fn is_due(job: &JobRecord, now: Milliseconds) -> bool {
    let latest = Milliseconds(now.0.saturating_add(1000 * LONGEST_WAIT_SECONDS as i64));
    job.not_before.is_none_or(|time| time <= now || time > latest)
}

/// Applies what happened, or says in words why that cannot happen to a job in this state.
#[expect(
    clippy::match_same_arms,
    reason = "a line for each transition, in the order of a job's life"
)]
pub(super) fn apply(
    job: &mut JobRecord,
    happening: JobEvent,
    now: Milliseconds,
    tries: Tries,
) -> Result<(), String> {
    use JobState::{Cancelled, Cancelling, Done, Failed, Paused, Pausing, Queued, Running};
    match (happening, job.state) {
        (JobEvent::Start { version, step }, Queued) => {
            job.state = Running;
            job.attempt += 1;
            job.not_before = None;
            job.started = Some(now);
            job.ended = None;
            job.message = None;
            job.version = version;
            job.step_at_start = step;
        }
        (JobEvent::Ended(End::Done { note }), Running | Pausing | Cancelling) => {
            end(job, Done, note, now);
        }
        (JobEvent::Ended(End::Stopped), Running) => {
            // The service is leaving: it goes on with the next one.
            job.state = Queued;
            job.attempt = 0;
        }
        (JobEvent::Ended(End::Stopped), Pausing) => job.state = Paused,
        (JobEvent::Ended(End::Stopped), Cancelling) => end(job, Cancelled, None, now),
        (JobEvent::Ended(End::Failed(message)), Running) => fail(job, message, now, tries),
        (JobEvent::Ended(End::Failed(message)), Pausing) => {
            job.state = Paused;
            job.message = Some(message);
        }
        (JobEvent::Ended(End::Failed(message)), Cancelling) => {
            end(job, Cancelled, Some(message), now);
        }
        (JobEvent::Lost { step }, Running) => {
            if step > job.step_at_start {
                // It got further, so what ended it is not what it does at its start.
                job.attempt = 1;
            }
            let message = "the service ended while it ran".to_owned();
            if job.attempt <= 1 {
                job.state = Queued;
                job.message = Some(message);
            } else {
                fail(job, message, now, tries);
            }
        }
        (JobEvent::Lost { .. }, Pausing) => job.state = Paused,
        (JobEvent::Lost { .. }, Cancelling) => end(job, Cancelled, None, now),
        (JobEvent::Pause, Queued) => job.state = Paused,
        (JobEvent::Pause, Running) => job.state = Pausing,
        (JobEvent::Resume, Paused) | (JobEvent::Retry, Failed | Cancelled) => {
            job.state = Queued;
            job.attempt = 0;
            job.not_before = None;
            job.ended = None;
            job.message = None;
        }
        (JobEvent::Cancel, Queued | Paused) => end(job, Cancelled, None, now),
        (JobEvent::Cancel, Running | Pausing) => job.state = Cancelling,
        (happening, state) => return Err(refusal(job.id, &happening, state)),
    }
    Ok(())
}

fn end(job: &mut JobRecord, state: JobState, message: Option<String>, now: Milliseconds) {
    job.state = state;
    job.message = message;
    job.ended = Some(now);
}

fn fail(job: &mut JobRecord, message: String, now: Milliseconds, tries: Tries) {
    if job.attempt < tries.attempts {
        job.state = JobState::Queued;
        job.not_before = Some(Milliseconds(now.0 + tries.wait(job.attempt)));
        job.message = Some(format!("try {} of {} failed: {message}", job.attempt, tries.attempts));
    } else {
        end(job, JobState::Failed, Some(message), now);
    }
}

fn refusal(id: u64, happening: &JobEvent, state: JobState) -> String {
    let state = state.as_str();
    match happening {
        JobEvent::Pause => {
            format!("job {id} is {state}: only one that is queued or running can be paused")
        }
        JobEvent::Resume => format!("job {id} is {state}: only one that is paused can be resumed"),
        JobEvent::Cancel => format!("job {id} is {state} already"),
        JobEvent::Retry => {
            format!("job {id} is {state}: only one that failed or was cancelled can be tried again")
        }
        JobEvent::Start { .. } | JobEvent::Ended(_) | JobEvent::Lost { .. } => {
            format!("job {id} is {state}, in which this cannot happen: {happening:?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_store::JobKind;
    use proptest::prelude::*;

    const TRIES: Tries = Tries { attempts: 3, retry_seconds: 30 };

    #[test]
    fn a_clock_that_is_set_holds_no_job_for_longer_than_its_wait() {
        const DAY: i64 = 24 * 3600 * 1000;
        let waiting = |until| JobRecord { not_before: Some(Milliseconds(until)), ..queued() };
        let now = Milliseconds(10 * DAY);
        assert!(is_due(&queued(), now) && is_due(&waiting(now.0), now));
        assert!(!is_due(&waiting(now.0 + 30_000), now));
        // The failure was noted while the date was a day, or thirty years, ahead; or just now, in 1970.
        for ahead in [DAY, 30 * 365 * DAY, i64::MAX - now.0] {
            assert!(is_due(&waiting(now.0 + ahead), now), "{ahead}");
        }
        assert!(is_due(&waiting(30_000), now));
    }

    fn queued() -> JobRecord {
        JobRecord {
            id: 7,
            kind: JobKind::Train,
            state: JobState::Queued,
            priority: 0,
            after: Vec::new(),
            run: None,
            config: None,
            args: Vec::new(),
            folder: "/".into(),
            attempt: 0,
            not_before: None,
            step_at_start: 0,
            created: Milliseconds(0),
            started: None,
            ended: None,
            version: String::new(),
            message: None,
        }
    }

    fn start() -> JobEvent {
        JobEvent::Start { version: "1".into(), step: 0 }
    }

    fn after(happenings: &[JobEvent]) -> JobRecord {
        let mut job = queued();
        for happening in happenings {
            apply(&mut job, happening.clone(), Milliseconds(1000), TRIES).unwrap();
        }
        job
    }

    #[test]
    fn a_failing_job_is_tried_again_later_and_later_and_then_has_failed() {
        let failed = || JobEvent::Ended(End::Failed("no such file".into()));
        let first = after(&[start(), failed()]);
        assert_eq!((first.state, first.not_before), (JobState::Queued, Some(Milliseconds(31_000))));
        let second = after(&[start(), failed(), start(), failed()]);
        assert_eq!(
            (second.state, second.not_before),
            (JobState::Queued, Some(Milliseconds(121_000)))
        );
        let third = after(&[start(), failed(), start(), failed(), start(), failed()]);
        assert_eq!(
            (third.state, third.message.as_deref()),
            (JobState::Failed, Some("no such file"))
        );
        let again =
            after(&[start(), failed(), start(), failed(), start(), failed(), JobEvent::Retry]);
        assert_eq!((again.state, again.attempt, again.message), (JobState::Queued, 0, None));
    }

    #[test]
    fn a_power_cut_costs_no_try_as_long_as_the_run_gets_further() {
        let mut job = queued();
        for step in 1..50 {
            apply(
                &mut job,
                JobEvent::Start { version: "1".into(), step: step - 1 },
                Milliseconds(0),
                TRIES,
            )
            .unwrap();
            apply(&mut job, JobEvent::Lost { step }, Milliseconds(0), TRIES).unwrap();
            assert_eq!(job.state, JobState::Queued);
        }
        // One that brings the service down at its start does not do so for ever.
        let lost = || JobEvent::Lost { step: 0 };
        let job = after(&[start(), lost(), start(), lost(), start(), lost()]);
        assert_eq!(job.state, JobState::Failed);
    }

    #[test]
    fn what_is_asked_of_a_running_job_holds_however_it_ends() {
        for end in [End::Stopped, End::Failed("x".into())] {
            assert_eq!(
                after(&[start(), JobEvent::Pause, JobEvent::Ended(end.clone())]).state,
                JobState::Paused
            );
            assert_eq!(
                after(&[start(), JobEvent::Cancel, JobEvent::Ended(end)]).state,
                JobState::Cancelled
            );
        }
        assert_eq!(
            after(&[start(), JobEvent::Pause, JobEvent::Lost { step: 0 }]).state,
            JobState::Paused
        );
        assert_eq!(
            after(&[start(), JobEvent::Pause, JobEvent::Cancel, JobEvent::Lost { step: 0 }]).state,
            JobState::Cancelled
        );
        // It came to its end before it heard.
        assert_eq!(
            after(&[start(), JobEvent::Cancel, JobEvent::Ended(End::Done { note: None })]).state,
            JobState::Done
        );
    }

    fn any_happening() -> impl Strategy<Value = JobEvent> {
        prop_oneof![
            Just(start()),
            Just(JobEvent::Ended(End::Done { note: None })),
            Just(JobEvent::Ended(End::Stopped)),
            Just(JobEvent::Ended(End::Failed("x".into()))),
            Just(JobEvent::Pause),
            Just(JobEvent::Resume),
            Just(JobEvent::Cancel),
            Just(JobEvent::Retry),
            Just(JobEvent::Lost { step: 3 }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_a_refusal_changes_nothing_and_times_fit_the_state(
            happenings in proptest::collection::vec(any_happening(), 0..40)
        ) {
            let mut job = queued();
            for happening in happenings {
                let before = job.clone();
                if apply(&mut job, happening, Milliseconds(5), TRIES).is_err() {
                    prop_assert_eq!(&job, &before);
                }
                prop_assert_eq!(job.ended.is_some(), job.state.has_ended());
                prop_assert!(job.attempt <= TRIES.attempts);
                prop_assert!(job.not_before.is_none() || job.state == JobState::Queued || job.state == JobState::Paused || job.state.has_ended());
            }
        }
    }
}

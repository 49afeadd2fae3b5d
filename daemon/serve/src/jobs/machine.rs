//! The states of a job and the transitions between them. Only this module decides about them. It
//! has no clock, no store and no threads.
//!
//! ```text
//! queued → running → done | failed | queued again (tries left, or the service shut down)
//! running → pausing → paused → queued       running → cancelling → cancelled
//! ```

use diptych_store::{JobRecord, JobState, Milliseconds};

/// Longest pause between two tries.
const LONGEST_WAIT_SECONDS: u64 = 3600;

/// An event in the life of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobEvent {
    Start {
        version: String,
        step: u64,
    },
    Ended(JobOutcome),
    Pause,
    Resume,
    Cancel,
    Retry,
    /// The service ended without hearing how the job ended, for example by a crash or a power cut.
    /// `step` is the newest checkpoint of its run.
    Lost {
        step: u64,
    },
}

/// The outcome of a job's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobOutcome {
    Done {
        note: Option<String>,
    },
    /// It stopped on request, with everything saved.
    Stopped,
    Failed(String),
}

/// The number of tries of a job, and the pause between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPolicy {
    pub(super) attempts: u32,
    pub(super) retry_seconds: u64,
}

impl RetryPolicy {
    /// Returns the milliseconds between the `attempt`-th try and the next.
    fn wait(self, attempt: u32) -> i64 {
        let factor = 4_u64.saturating_pow(attempt.saturating_sub(1));
        (1000 * self.retry_seconds.saturating_mul(factor).min(LONGEST_WAIT_SECONDS)) as i64
    }
}

/// Whether a job has waited long enough for its next try. A time further away than any pause was
/// recorded by a clock that has been set back since. Such a job is due: otherwise a wrong date
/// would hold it for as long as the date was wrong.
pub(super) fn is_due(job: &JobRecord, now: Milliseconds) -> bool {
    let latest = Milliseconds(now.0.saturating_add(1000 * LONGEST_WAIT_SECONDS as i64));
    job.not_before.is_none_or(|time| time <= now || time > latest)
}

/// Applies an event to a job. Returns a message if the event cannot happen in the job's state.
#[expect(
    clippy::match_same_arms,
    reason = "a line for each transition, in the order of a job's life"
)]
pub(super) fn apply(
    job: &mut JobRecord,
    event: JobEvent,
    now: Milliseconds,
    tries: RetryPolicy,
) -> Result<(), String> {
    use JobState::{Cancelled, Cancelling, Done, Failed, Paused, Pausing, Queued, Running};
    match (event, job.state) {
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
        (JobEvent::Ended(JobOutcome::Done { note }), Running | Pausing | Cancelling) => {
            end(job, Done, note, now);
        }
        (JobEvent::Ended(JobOutcome::Stopped), Running) => {
            // The service is shutting down. The next one continues the job.
            job.state = Queued;
            job.attempt = 0;
        }
        (JobEvent::Ended(JobOutcome::Stopped), Pausing) => job.state = Paused,
        (JobEvent::Ended(JobOutcome::Stopped), Cancelling) => end(job, Cancelled, None, now),
        (JobEvent::Ended(JobOutcome::Failed(message)), Running) => fail(job, message, now, tries),
        (JobEvent::Ended(JobOutcome::Failed(message)), Pausing) => {
            job.state = Paused;
            job.message = Some(message);
        }
        (JobEvent::Ended(JobOutcome::Failed(message)), Cancelling) => {
            end(job, Cancelled, Some(message), now);
        }
        (JobEvent::Lost { step }, Running) => {
            if step > job.step_at_start {
                // It made progress, so its start is not what ended the service.
                job.attempt = 1;
            }
            let message = "the service ended while the job was running".to_owned();
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
        (event, state) => return Err(refusal(job.id, &event, state)),
    }
    Ok(())
}

fn end(job: &mut JobRecord, state: JobState, message: Option<String>, now: Milliseconds) {
    job.state = state;
    job.message = message;
    job.ended = Some(now);
}

fn fail(job: &mut JobRecord, message: String, now: Milliseconds, tries: RetryPolicy) {
    if job.attempt < tries.attempts {
        job.state = JobState::Queued;
        job.not_before = Some(Milliseconds(now.0 + tries.wait(job.attempt)));
        job.message = Some(format!("try {} of {} failed: {message}", job.attempt, tries.attempts));
    } else {
        end(job, JobState::Failed, Some(message), now);
    }
}

fn refusal(id: u64, event: &JobEvent, state: JobState) -> String {
    let state = state.as_str();
    match event {
        JobEvent::Pause => {
            format!("job {id} is {state}: only a queued or running job can be paused")
        }
        JobEvent::Resume => format!("job {id} is {state}: only a paused job can be resumed"),
        JobEvent::Cancel => format!("job {id} is already {state}"),
        JobEvent::Retry => {
            format!("job {id} is {state}: only a failed or cancelled job can be retried")
        }
        JobEvent::Start { .. } | JobEvent::Ended(_) | JobEvent::Lost { .. } => {
            format!("job {id} is {state}, so this event cannot happen: {event:?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_store::JobKind;
    use proptest::prelude::*;

    const TRIES: RetryPolicy = RetryPolicy { attempts: 3, retry_seconds: 30 };

    #[test]
    fn a_clock_that_is_set_holds_no_job_for_longer_than_its_wait() {
        const DAY: i64 = 24 * 3600 * 1000;
        let waiting = |until| JobRecord { not_before: Some(Milliseconds(until)), ..queued() };
        let now = Milliseconds(10 * DAY);
        assert!(is_due(&queued(), now) && is_due(&waiting(now.0), now));
        assert!(!is_due(&waiting(now.0 + 30_000), now));
        // The failure was recorded while the date was a day or thirty years ahead, or in 1970.
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
        let failed = || JobEvent::Ended(JobOutcome::Failed("no such file".into()));
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
        // A job that ends the service at its start is not tried for ever.
        let lost = || JobEvent::Lost { step: 0 };
        let job = after(&[start(), lost(), start(), lost(), start(), lost()]);
        assert_eq!(job.state, JobState::Failed);
    }

    #[test]
    fn what_is_asked_of_a_running_job_holds_however_it_ends() {
        for end in [JobOutcome::Stopped, JobOutcome::Failed("x".into())] {
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
        // It finished before it received the request.
        assert_eq!(
            after(&[start(), JobEvent::Cancel, JobEvent::Ended(JobOutcome::Done { note: None })])
                .state,
            JobState::Done
        );
    }

    fn any_happening() -> impl Strategy<Value = JobEvent> {
        prop_oneof![
            Just(start()),
            Just(JobEvent::Ended(JobOutcome::Done { note: None })),
            Just(JobEvent::Ended(JobOutcome::Stopped)),
            Just(JobEvent::Ended(JobOutcome::Failed("x".into()))),
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
                let may_wait = matches!(job.state, JobState::Queued | JobState::Paused);
                prop_assert!(job.not_before.is_none() || may_wait || job.state.has_ended());
            }
        }
    }
}

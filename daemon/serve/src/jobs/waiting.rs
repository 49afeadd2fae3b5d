//! Reasons why a queued job does not run yet.

use diptych_schemas::JobsConfig;
use diptych_store::{JobRecord, JobState, Milliseconds};

use super::{Inner, Queue, machine, runs_a_model};

/// The reason why a job waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// Other jobs are not done.
    Jobs(Vec<u64>),
    /// The time of its next try has not come.
    NextTry,
    /// All slots of its kind are taken by these jobs, or jobs before it in the queue come first.
    Place { key: &'static str, places: usize, taken_by: Vec<u64> },
}

impl WaitsFor {
    /// Describes the reason in a few words, for lists.
    pub(crate) fn words(&self) -> String {
        let list = |ids: &[u64]| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            format!("job{} {}", if ids.len() == 1 { "" } else { "s" }, ids.join(", "))
        };
        match self {
            Self::Jobs(ids) => format!("after {}", list(ids)),
            Self::NextTry => "until its next try".into(),
            Self::Place { taken_by, .. } if taken_by.is_empty() => "its turn comes next".into(),
            Self::Place { key, places, taken_by } => {
                format!("until {} ends ({key} = {places})", list(taken_by))
            }
        }
    }
}

impl Queue {
    /// Returns the reason why a job waits, or `None` if it is not queued.
    pub(crate) fn waits_for(&self, job: &JobRecord) -> Option<WaitsFor> {
        let limits = self.limits().clone();
        waits_for(&self.inner(), &limits, job, Milliseconds::now())
    }
}

fn waits_for(
    inner: &Inner,
    limits: &JobsConfig,
    job: &JobRecord,
    now: Milliseconds,
) -> Option<WaitsFor> {
    if job.state != JobState::Queued {
        return None;
    }
    let open = |id: &&u64| inner.jobs.get(id).is_some_and(|job| job.state != JobState::Done);
    let before: Vec<u64> = job.after.iter().filter(open).copied().collect();
    if !before.is_empty() {
        return Some(WaitsFor::Jobs(before));
    }
    if !machine::is_due(job, now) {
        return Some(WaitsFor::NextTry);
    }
    let of_model = runs_a_model(job);
    let (key, places) = if of_model {
        ("jobs.model_slots", limits.model_slots)
    } else {
        ("jobs.data_slots", limits.data_slots)
    };
    let running = inner
        .running
        .keys()
        .filter(|id| inner.jobs.get(id).is_some_and(|other| runs_a_model(other) == of_model));
    let mut taken_by: Vec<u64> = running.copied().collect();
    taken_by.sort_unstable();
    Some(WaitsFor::Place { key, places, taken_by })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use diptych_store::JobKind;
    use diptych_training::live::Live;
    use diptych_training::stop::StopRequest;

    use super::super::RunningJob;
    use super::*;

    fn job(id: u64, state: JobState, after: &[u64]) -> JobRecord {
        JobRecord {
            id,
            kind: JobKind::Train,
            state,
            priority: 0,
            after: after.to_vec(),
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

    #[test]
    fn job_waits_for_what_is_not_done_and_then_for_a_place() {
        let waiting = job(4, JobState::Queued, &[2, 3]);
        let mut inner = Inner::default();
        let jobs = [job(2, JobState::Done, &[]), job(3, JobState::Running, &[]), waiting.clone()];
        inner.jobs = jobs.into_iter().map(|job| (job.id, job)).collect::<BTreeMap<_, _>>();
        let limits = JobsConfig::default();
        let why = |inner: &Inner, job: &JobRecord| {
            waits_for(inner, &limits, job, Milliseconds(10)).map(|waits| waits.words())
        };
        assert_eq!(why(&inner, &waiting).unwrap(), "after job 3");
        inner.jobs.get_mut(&3).unwrap().state = JobState::Done;
        assert_eq!(why(&inner, &waiting).unwrap(), "its turn comes next");
        inner.jobs.insert(1, job(1, JobState::Running, &[]));
        let (stop, live) = (StopRequest::default(), Live::default());
        inner.running.insert(1, RunningJob { stop, live, in_process: true, seen: 0 });
        assert_eq!(why(&inner, &waiting).unwrap(), "until job 1 ends (jobs.model_slots = 1)");
        let later = JobRecord { not_before: Some(Milliseconds(11)), ..waiting.clone() };
        assert_eq!(why(&inner, &later).unwrap(), "until its next try");
        assert_eq!(why(&inner, &job(5, JobState::Running, &[4])), None);
    }
}

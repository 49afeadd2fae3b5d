//! The schedule of requests to hosts: a state machine without network and clock.
//!
//! The invariants:
//!
//! - The number and the rate of requests to a host never exceed its limits.
//! - A host that requested a pause gets it.
//! - Nothing is requested from a host before its robots.txt is known.
//! - The rows of one host are requested in the list's order, so that the first row of all is always
//!   the first of its host.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diptych_schemas::Reason;
use url::Url;

use super::DownloadOptions;
use super::robots::Rules;

/// Consecutive failures to connect or to answer after which a host counts as down.
const DOWN_AFTER: u32 = 5;
/// Time without requests to a host that is down.
const DOWN_FOR: Duration = Duration::from_mins(5);
/// Time until a robots.txt that could not be fetched is requested again. Until then its host gets
/// no other requests.
const ROBOTS_AGAIN: Duration = Duration::from_secs(30);
/// Most hosts that are remembered. Beyond, those that were idle longest are forgotten, and count as
/// new.
const MAX_HOSTS: usize = 20_000;

/// The name of a host: scheme, name and port.
pub(super) type HostName = Arc<str>;

/// One planned request.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Number of the row in this pass.
    pub(super) row: u64,
    pub(super) url: Url,
    /// Redirects that were followed to get here.
    pub(super) hops: u8,
    /// How often this row failed in this pass.
    pub(super) tries: u8,
}

impl Job {
    pub(super) fn host(&self) -> HostName {
        self.url.origin().ascii_serialization().into()
    }
}

#[derive(Debug)]
pub(super) enum Next {
    Ask(HostName, Job),
    AskRobots(HostName, Url),
    /// Refused without a request.
    Refuse(Job, Reason, String),
    /// Nothing until then, or until a request ends.
    Wait(Option<Instant>),
}

/// The meaning of a request's result for its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It answered, whatever the answer.
    Alive,
    /// It did not answer, for this reason.
    Silent(Reason),
    /// It asks for a pause.
    Pause(Duration),
    /// The request was abandoned.
    Unknown,
}

struct Host {
    /// By number of the row.
    queue: BTreeMap<u64, Job>,
    running: usize,
    rules: Option<Arc<Rules>>,
    asking_rules: bool,
    /// When rules that could not be fetched are requested again.
    rules_again: Option<Instant>,
    next_start: Instant,
    not_before: Instant,
    silent: u32,
    down: Option<(Instant, Reason)>,
    used: Instant,
    /// Whether it is in `ready` or has a timer, since once is enough.
    queued: bool,
}

pub(super) struct Schedule {
    per_host: usize,
    interval: Duration,
    max_wait: Duration,
    robots: bool,
    hosts: HashMap<HostName, Host>,
    ready: VecDeque<HostName>,
    timers: BinaryHeap<Reverse<(Instant, HostName)>>,
    /// Retries by time, with the row's number.
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_jobs: HashMap<u64, Job>,
    /// The host of each row that waits in a host's queue.
    place: HashMap<u64, HostName>,
}

enum Step {
    Go(Next),
    Until(Instant),
    /// A request must end first, or there is nothing to do.
    Idle,
}

impl Schedule {
    pub(super) fn new(options: &DownloadOptions) -> Self {
        Self {
            per_host: options.per_host,
            interval: options.host_interval,
            max_wait: options.max_wait,
            robots: options.robots_txt,
            hosts: HashMap::new(),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            delayed: BinaryHeap::new(),
            delayed_jobs: HashMap::new(),
            place: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, job: Job, now: Instant) {
        if self.hosts.len() >= MAX_HOSTS {
            self.forget_idle(now);
        }
        let name = job.host();
        let host = self.hosts.entry(Arc::clone(&name)).or_insert_with(|| Host {
            queue: BTreeMap::new(),
            running: 0,
            rules: None,
            asking_rules: false,
            rules_again: None,
            next_start: now,
            not_before: now,
            silent: 0,
            down: None,
            used: now,
            queued: false,
        });
        host.used = now;
        self.place.insert(job.row, Arc::clone(&name));
        host.queue.insert(job.row, job);
        if !std::mem::replace(&mut host.queued, true) {
            self.ready.push_back(name);
        }
    }

    /// Adds a job at a later time.
    pub(super) fn add_later(&mut self, job: Job, at: Instant) {
        self.delayed.push(Reverse((at, job.row)));
        self.delayed_jobs.insert(job.row, job);
    }

    /// Removes all jobs that have not been requested.
    pub(super) fn clear(&mut self) {
        for host in self.hosts.values_mut() {
            host.queue.clear();
        }
        self.place.clear();
        self.delayed.clear();
        self.delayed_jobs.clear();
    }

    /// Returns the next thing to do. With `only`, nothing but that row (and what it needs) may be
    /// requested.
    pub(super) fn next(&mut self, now: Instant, only: Option<u64>) -> Next {
        while let Some(Reverse((at, row))) = self.delayed.peek().copied() {
            if at > now {
                break;
            }
            self.delayed.pop();
            if let Some(job) = self.delayed_jobs.remove(&row) {
                self.add(job, now);
            }
        }
        if let Some(row) = only {
            let step =
                self.place.get(&row).cloned().map_or(Step::Idle, |name| self.step(&name, now));
            return match step {
                Step::Go(next) => next,
                Step::Until(at) => Next::Wait(Some(at)),
                Step::Idle => Next::Wait(self.delayed.peek().map(|Reverse((at, _))| *at)),
            };
        }
        while let Some(Reverse((at, _))) = self.timers.peek() {
            if *at > now {
                break;
            }
            if let Some(Reverse((_, name))) = self.timers.pop() {
                self.ready.push_back(name);
            }
        }
        while let Some(name) = self.ready.pop_front() {
            match self.step(&name, now) {
                Step::Go(next) => {
                    self.ready.push_back(name);
                    return next;
                }
                Step::Until(at) => self.timers.push(Reverse((at, name))),
                Step::Idle => {
                    if let Some(host) = self.hosts.get_mut(&name) {
                        host.queued = false;
                    }
                }
            }
        }
        let timers = [
            self.timers.peek().map(|Reverse((at, _))| *at),
            self.delayed.peek().map(|Reverse((at, _))| *at),
        ];
        Next::Wait(timers.into_iter().flatten().min())
    }

    /// Returns the next thing to do with one host.
    fn step(&mut self, name: &HostName, now: Instant) -> Step {
        let Some(host) = self.hosts.get_mut(name) else { return Step::Idle };
        let Some((&row, job)) = host.queue.first_key_value() else { return Step::Idle };
        if host.rules_again.is_some_and(|at| at <= now) {
            (host.rules, host.rules_again) = (None, None);
        }
        let refusal = if let Some((until, reason)) = host.down.filter(|(until, _)| *until > now) {
            let left = until.duration_since(now).as_secs();
            let detail = format!(
                "not requested: {name} failed {DOWN_AFTER} times in a row and gets no requests for \
                 another {left} s"
            );
            Some((reason, detail))
        } else if host.not_before > now + self.max_wait {
            let wait = host.not_before.duration_since(now).as_secs();
            Some((
                Reason::RateLimited,
                format!("not requested: {name} asked for no requests for another {wait} s"),
            ))
        } else {
            match &host.rules {
                None if self.robots => None,
                Some(rules) => match &**rules {
                    Rules::Unreachable(reason, why) => {
                        Some((*reason, format!("{name}/robots.txt: {why}")))
                    }
                    rules if !rules.allow(&job.url) => Some((
                        Reason::RobotsDisallowed,
                        format!("{name}/robots.txt does not allow {}", job.url.path()),
                    )),
                    _ => None,
                },
                None => None,
            }
        };
        if let Some((reason, detail)) = refusal {
            self.place.remove(&row);
            return host
                .queue
                .remove(&row)
                .map_or(Step::Idle, |job| Step::Go(Next::Refuse(job, reason, detail)));
        }
        let start = host.not_before.max(host.next_start);
        if host.asking_rules || host.running >= self.per_host {
            return Step::Idle;
        }
        if start > now {
            return Step::Until(start);
        }
        host.running += 1;
        host.used = now;
        let delay = host.rules.as_ref().map_or(Duration::ZERO, |rules| rules.delay());
        host.next_start = now + self.interval.max(delay);
        if host.rules.is_none() && self.robots {
            host.asking_rules = true;
            let mut url = job.url.clone();
            url.set_path("/robots.txt");
            url.set_query(None);
            url.set_fragment(None);
            return Step::Go(Next::AskRobots(Arc::clone(name), url));
        }
        self.place.remove(&row);
        host.queue.remove(&row).map_or(Step::Idle, |job| Step::Go(Next::Ask(Arc::clone(name), job)))
    }

    /// Handles the end of a request to a host.
    pub(super) fn ended(&mut self, name: &HostName, standing: Standing, now: Instant) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        host.running = host.running.saturating_sub(1);
        host.used = now;
        match standing {
            Standing::Alive => (host.silent, host.down) = (0, None),
            Standing::Silent(reason) => {
                host.silent += 1;
                if host.silent >= DOWN_AFTER {
                    host.down = Some((now + DOWN_FOR, reason));
                }
            }
            Standing::Pause(wait) => {
                host.silent = 0;
                host.not_before = host.not_before.max(now + wait);
            }
            Standing::Unknown => {}
        }
        if !std::mem::replace(&mut host.queued, true) {
            self.ready.push_back(Arc::clone(name));
        }
    }

    /// Sets the robots.txt of a host. [`Self::ended`] must be called, too.
    pub(super) fn learn(&mut self, name: &HostName, rules: Rules, now: Instant) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.asking_rules = false;
            host.rules_again = matches!(rules, Rules::Unreachable(..)).then(|| now + ROBOTS_AGAIN);
            host.next_start = host.next_start.max(now + rules.delay());
            host.rules = Some(Arc::new(rules));
        }
    }

    /// Starts a new pass, in which unreachable hosts are tried again.
    pub(super) fn new_pass(&mut self, max_wait: Duration) {
        self.max_wait = max_wait;
        for host in self.hosts.values_mut() {
            (host.silent, host.down) = (0, None);
            if host.rules.as_ref().is_some_and(|rules| matches!(**rules, Rules::Unreachable(..))) {
                (host.rules, host.rules_again) = (None, None);
            }
        }
    }

    fn forget_idle(&mut self, now: Instant) {
        let is_idle = |host: &Host| {
            let resting = host.not_before > now || host.down.is_some_and(|(until, _)| until > now);
            host.queue.is_empty() && host.running == 0 && !host.queued && !resting
        };
        let mut ages: Vec<Instant> =
            self.hosts.values().filter(|host| is_idle(host)).map(|host| host.used).collect();
        let half = ages.len() / 2;
        if half > 0 {
            let (_, middle, _) = ages.select_nth_unstable(half);
            let middle = *middle;
            self.hosts.retain(|_, host| !is_idle(host) || host.used > middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(per_host: usize, interval_ms: u64, robots_txt: bool) -> DownloadOptions {
        let host_interval = Duration::from_millis(interval_ms);
        DownloadOptions { per_host, host_interval, robots_txt, ..DownloadOptions::default() }
    }

    fn job(row: u64, host: &str) -> Job {
        Job {
            row,
            url: Url::parse(&format!("http://{host}/{row}.jpg")).unwrap(),
            hops: 0,
            tries: 0,
        }
    }

    fn row(next: &Next) -> Option<u64> {
        match next {
            Next::Ask(_, job) => Some(job.row),
            _ => None,
        }
    }

    #[test]
    fn hosts_take_turns_within_their_limit_and_interval() {
        let start = Instant::now();
        let mut schedule = Schedule::new(&options(2, 100, false));
        for (number, host) in ["a", "a", "a", "b"].into_iter().enumerate() {
            schedule.add(job(number as u64, host), start);
        }
        let first = [schedule.next(start, None), schedule.next(start, None)];
        assert_eq!(first.iter().map(row).collect::<Vec<_>>(), [Some(0), Some(3)]);
        assert!(matches!(schedule.next(start, None), Next::Wait(Some(
                at)) if at == start + Duration::from_millis(100)));
        let later = start + Duration::from_millis(100);
        assert_eq!(row(&schedule.next(later, None)), Some(1));
        // Two requests to `a` are running: the third waits for an end, whatever the time.
        let much_later = start + Duration::from_secs(10);
        assert!(matches!(schedule.next(much_later, None), Next::Wait(None)));
        schedule.ended(&job(0, "a").host(), Standing::Alive, much_later);
        assert_eq!(row(&schedule.next(much_later, None)), Some(2));
    }

    #[test]
    fn robots_are_asked_first_and_heeded() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&options(4, 0, true));
        schedule.add(job(0, "a"), now);
        schedule.add(job(1, "a"), now);
        let Next::AskRobots(name, url) = schedule.next(now, None) else { panic!() };
        assert_eq!(url.as_str(), "http://a/robots.txt");
        assert!(matches!(schedule.next(now, None), Next::Wait(None)));
        schedule.learn(&name, Rules::parse("diptych", b"User-agent: *\nDisallow: /0.jpg"), now);
        schedule.ended(&name, Standing::Alive, now);
        assert!(matches!(schedule.next(now, None), Next::Refuse(job, Reason::RobotsDisallowed,
                _) if job.row == 0));
        assert_eq!(row(&schedule.next(now, None)), Some(1));

        // Unavailable rules forbid everything, and are requested again after a while.
        schedule.add(job(2, "b"), now);
        schedule.add(job(3, "b"), now);
        let Next::AskRobots(name, _) = schedule.next(now, None) else { panic!() };
        schedule.learn(&name, Rules::Unreachable(Reason::Timeout, "slow".into()), now);
        schedule.ended(&name, Standing::Unknown, now);
        assert!(matches!(schedule.next(now, None), Next::Refuse(job, Reason::Timeout,
                _) if job.row == 2));
        assert!(matches!(schedule.next(now + ROBOTS_AGAIN, None), Next::AskRobots(..)));
    }

    #[test]
    fn silent_host_is_given_up_and_tried_again_in_the_next_pass() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&options(100, 0, false));
        (0..10).for_each(|row| schedule.add(job(row, "a"), now));
        for _ in 0..DOWN_AFTER {
            let Next::Ask(name, _) = schedule.next(now, None) else { panic!() };
            schedule.ended(&name, Standing::Silent(Reason::DnsFailed), now);
        }
        assert!(matches!(schedule.next(now, None), Next::Refuse(_, Reason::DnsFailed, _)));
        schedule.new_pass(Duration::from_mins(1));
        assert!(matches!(schedule.next(now, None), Next::Ask(..)));
    }

    #[test]
    fn pause_is_kept_and_a_long_one_goes_to_the_ledger() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&options(4, 0, false));
        (0..3).for_each(|row| schedule.add(job(row, "a"), now));
        let Next::Ask(name, _) = schedule.next(now, None) else { panic!() };
        schedule.ended(&name, Standing::Pause(Duration::from_secs(7)), now);
        assert!(matches!(schedule.next(now, None), Next::Wait(Some(
                at)) if at == now + Duration::from_secs(7)));
        let later = now + Duration::from_secs(7);
        let Next::Ask(name, _) = schedule.next(later, None) else { panic!() };
        schedule.ended(&name, Standing::Pause(Duration::from_hours(1)), later);
        assert!(matches!(schedule.next(later, None), Next::Refuse(_, Reason::RateLimited, _)));
    }

    #[test]
    fn only_the_first_row_may_start_when_memory_is_spent() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&options(4, 0, false));
        (0..3).for_each(|row| schedule.add(job(row, ["a", "b", "a"][row as usize]), now));
        assert_eq!(row(&schedule.next(now, Some(1))), Some(1));
        assert!(matches!(schedule.next(now, Some(1)), Next::Wait(None)));
        // A redirect from another host takes its row's place in the queue, before later rows.
        schedule.add(job(1, "a"), now);
        assert_eq!(row(&schedule.next(now, Some(0))), Some(0));
        assert_eq!(row(&schedule.next(now, Some(1))), Some(1));
        assert_eq!(row(&schedule.next(now, None)), Some(2));
    }

    #[test]
    fn hosts_that_are_idle_are_forgotten() {
        let start = Instant::now();
        let mut schedule = Schedule::new(&options(1, 0, false));
        for number in 0..3 * MAX_HOSTS as u64 {
            let now = start + Duration::from_millis(number);
            schedule.add(job(number, &format!("host{number}")), now);
            let Next::Ask(name, _) = schedule.next(now, None) else { panic!() };
            schedule.ended(&name, Standing::Alive, now);
            assert!(matches!(schedule.next(now, None), Next::Wait(None)));
        }
        assert!(schedule.hosts.len() <= MAX_HOSTS && schedule.place.is_empty());
    }
}

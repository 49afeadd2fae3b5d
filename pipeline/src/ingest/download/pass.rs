//! A single pass over a list: rows in, answers out, in the order of the rows.
//!
//! A thread reads the list, one task drives the schedule, each request is a separate task, and the
//! caller's thread takes the results. Rows are passed on in order within a window, so the dataset
//! does not depend on the speed of hosts. A slow host holds up the others only when the window or
//! the memory is full.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use diptych_schemas::Reason;
use futures::FutureExt;
use rand::Rng;
use reqwest::Client;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use url::Url;

use super::DownloadOptions;
use super::address;
use super::budget::{Budget, Held};
use super::fetch::{self, Answer, Failure};
use super::robots::Rules;
use super::schedule::{HostName, Job, Next, Schedule, Standing};
use crate::ingest::IngestError;
use crate::ingest::item::{Item, MAX_CAPTION_BYTES, Outcome, Record, Sink};

/// Rows between the next one to be passed on and the last one that was read.
const WINDOW: usize = 32_768;
/// Rows that the list's reader may be ahead.
const ROWS_AHEAD: usize = 1024;
/// Longest URL in bytes.
const MAX_URL_BYTES: usize = 8192;
/// Retries within a pass: after an error of the host, and after a failed connection.
const TRIES_AFTER_ERROR: u8 = 2;
const TRIES_AFTER_BREAK: u8 = 1;
/// First pause before a retry. It doubles each time, and varies by half.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait for a host in the first pass, in which others wait for it.
const FIRST_PASS_WAIT: Duration = Duration::from_secs(10);
/// Time for running requests to end when stopped.
const GRACE: Duration = Duration::from_secs(10);
/// Interval in which a stop is noticed.
const TICK: Duration = Duration::from_millis(100);

/// The downloads of a whole ingest. Connections and the knowledge of hosts outlive a list.
pub(in crate::ingest) struct Downloader {
    runtime: Runtime,
    client: Client,
    options: Arc<DownloadOptions>,
    schedule: Option<Schedule>,
}

/// The end of a pass.
pub(in crate::ingest) enum Passed {
    /// The list ended.
    Done(Outcome),
    /// A stop was requested. Rows that were passed on count.
    Stopped,
}

/// Reads the rows of a list, with URLs in place of images.
pub(in crate::ingest) type Rows<'a> =
    Box<dyn FnOnce(&mut Sink) -> Result<Outcome, IngestError> + Send + 'a>;

impl Downloader {
    pub(in crate::ingest) fn new(options: &DownloadOptions) -> Result<Self, IngestError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| IngestError::Request {
            message: format!("{what}: {error}"),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("download")
            .build()
            .map_err(|e| failed("cannot start the threads for downloads", &e))?;
        let client =
            fetch::client(options).map_err(|e| failed("cannot start the HTTP client", &e))?;
        Ok(Self { runtime, client, options: Arc::new(options.clone()), schedule: None })
    }

    /// Goes through a list. With `again`, earlier failures are requested, and there is time to wait
    /// for hosts.
    pub(in crate::ingest) fn pass(
        &mut self,
        rows: Rows,
        max_image_bytes: u64,
        again: bool,
        sink: &mut Sink,
    ) -> Result<Passed, IngestError> {
        let max_wait =
            if again { self.options.max_wait } else { self.options.max_wait.min(FIRST_PASS_WAIT) };
        let mut schedule = self.schedule.take().unwrap_or_else(|| Schedule::new(&self.options));
        schedule.new_pass(max_wait);
        let budget = Arc::new(Budget::new(self.options.buffer_bytes));
        let (rows_in, rows_out) = tokio::sync::mpsc::channel(ROWS_AHEAD);
        let (done_in, done_out) = crossbeam_channel::unbounded();
        let pass = Pass {
            client: self.client.clone(),
            options: Arc::clone(&self.options),
            schedule,
            budget: Arc::clone(&budget),
            max_image_bytes,
            slots: VecDeque::new(),
            first: 0,
            done: done_in,
            tasks: JoinSet::new(),
        };
        // An error tells the reader that its rows are not needed any more.
        let unwanted = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let unwanted = &unwanted;
            let reader = scope.spawn(move || {
                rows(&mut |item, next| {
                    rows_in.blocking_send((item, next)).map_err(|_| {
                        unwanted.store(true, Ordering::Relaxed);
                        IngestError::Request { message: "the list is not read further".into() }
                    })
                })
            });
            let driver = self.runtime.spawn(pass.run(rows_out));
            let mut failed = None;
            for Done { item, next, held } in &done_out {
                if let Err(error) = sink(item, next) {
                    failed = Some(error);
                    driver.abort();
                    break;
                }
                drop(held);
                budget.advance();
            }
            drop(done_out);
            let driven = self.runtime.block_on(driver);
            let read = match reader.join() {
                Ok(read) => read,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            if let Some(error) = failed {
                return Err(error);
            }
            let (schedule, stopped) = driven.map_err(|e| IngestError::Request {
                message: format!("downloads ended early: {e}"),
            })?;
            self.schedule = Some(schedule);
            match read {
                _ if stopped => Ok(Passed::Stopped),
                Err(_) if unwanted.load(Ordering::Relaxed) => Ok(Passed::Stopped),
                Err(error) => Err(error),
                Ok(outcome) => Ok(Passed::Done(outcome)),
            }
        })
    }
}

/// An item that can be passed on, with the share of the budget of its image.
struct Done {
    item: Item,
    next: u64,
    held: Option<Held>,
}

enum Slot {
    Waiting(Record, u64),
    Ready(Done),
}

enum Ended {
    Image(Job, Answer, Held),
    Robots(Rules, bool),
}

struct Pass {
    client: Client,
    options: Arc<DownloadOptions>,
    schedule: Schedule,
    budget: Arc<Budget>,
    max_image_bytes: u64,
    /// Rows `first`, `first + 1`, ….
    slots: VecDeque<Slot>,
    first: u64,
    done: Sender<Done>,
    tasks: JoinSet<(HostName, Ended)>,
}

impl Pass {
    /// Runs the pass. Returns the schedule, and whether it was stopped.
    async fn run(mut self, mut rows: Receiver<(Item, u64)>) -> (Schedule, bool) {
        let mut tick = tokio::time::interval(TICK);
        let mut list_ended = false;
        loop {
            let wake = self.start();
            self.hand_on();
            if list_ended && self.slots.is_empty() {
                return (self.schedule, false);
            }
            if self.options.stop.load(Ordering::Relaxed) {
                drop(rows);
                self.wind_up().await;
                return (self.schedule, true);
            }
            let has_room = self.slots.len() < WINDOW && !list_ended;
            let wake_at = wake.unwrap_or_else(Instant::now).into();
            tokio::select! {
                row = rows.recv(), if has_room => {
                    let mut row = row;
                    list_ended = row.is_none();
                    while let Some((item, next)) = row {
                        self.admit(item, next);
                        row = if self.slots.len() < WINDOW { rows.try_recv().ok() } else { None };
                    }
                }
                Some(ended) = self.tasks.join_next() => self.take(ended),
                () = self.budget.changed.notified(), if self.budget.is_spent() => {}
                () = tokio::time::sleep_until(wake_at), if wake.is_some() => {}
                _ = tick.tick() => {}
            }
            while let Some(ended) = self.tasks.try_join_next() {
                self.take(ended);
            }
        }
    }

    /// Adds a row to the window. A row without a URL or a caption needs no request.
    fn admit(&mut self, item: Item, next: u64) {
        let row = self.first + self.slots.len() as u64;
        let mut record = match item {
            Item::Record(record) if is_wanted(&record) => record,
            other => {
                return self.slots.push_back(Slot::Ready(Done { item: other, next, held: None }));
            }
        };
        match address_of(&record, &self.options) {
            Some(Ok(url)) => {
                self.schedule.add(Job { row, url, hops: 0, tries: 0 }, Instant::now());
                self.slots.push_back(Slot::Waiting(record, next));
            }
            flaw => {
                if let Some(Err(flaw)) = flaw {
                    record.image = Err(flaw);
                }
                self.slots.push_back(Slot::Ready(Done {
                    item: Item::Record(record),
                    next,
                    held: None,
                }));
            }
        }
    }

    /// Starts all requests that may start. Returns when to try again.
    fn start(&mut self) -> Option<Instant> {
        while self.tasks.len() < self.options.concurrency {
            let only = self.budget.is_spent().then(|| self.budget.head());
            match self.schedule.next(Instant::now(), only) {
                Next::Wait(until) => return until,
                Next::Refuse(job, reason, detail) => {
                    self.fail(job.row, Failure::new(reason, detail));
                }
                Next::Ask(host, job) => {
                    let (client, options, limit) =
                        (self.client.clone(), Arc::clone(&self.options), self.max_image_bytes);
                    let mut held = self.budget.hold();
                    self.tasks.spawn(async move {
                        let asked =
                            fetch::image(&client, &options, &job.url, limit, job.row, &mut held);
                        let answer =
                            AssertUnwindSafe(asked).catch_unwind().await.unwrap_or_else(|_| {
                                Answer::Failed(Failure::new(
                                    Reason::BadResponse,
                                    "the HTTP client crashed",
                                ))
                            });
                        (host, Ended::Image(job, answer, held))
                    });
                }
                Next::AskRobots(host, url) => {
                    let (client, options) = (self.client.clone(), Arc::clone(&self.options));
                    self.tasks.spawn(async move {
                        let asked = AssertUnwindSafe(fetch::robots(&client, &options, url))
                            .catch_unwind()
                            .await;
                        let (rules, answered) = asked.unwrap_or_else(|_| {
                            (
                                Rules::Unreachable(
                                    Reason::RobotsUnreachable,
                                    "it cannot be read".into(),
                                ),
                                true,
                            )
                        });
                        (host, Ended::Robots(rules, answered))
                    });
                }
            }
        }
        None
    }

    fn take(&mut self, ended: Result<(HostName, Ended), tokio::task::JoinError>) {
        // Tasks catch their panics. Only an abort ends here, when nothing is waited for any more.
        let Ok((host, ended)) = ended else { return };
        let now = Instant::now();
        let (job, answer, held) = match ended {
            Ended::Robots(rules, answered) => {
                self.schedule.learn(&host, rules, now);
                // A host that does not answer for its robots.txt gets no more requests, because its
                // rules forbid it.
                return self.schedule.ended(
                    &host,
                    if answered { Standing::Alive } else { Standing::Unknown },
                    now,
                );
            }
            Ended::Image(job, answer, held) => (job, answer, held),
        };
        let standing = match &answer {
            Answer::Image(_) | Answer::Redirect(_) => Standing::Alive,
            Answer::NoRoom => Standing::Unknown,
            Answer::Failed(failure) => match failure.reason {
                Reason::RateLimited => {
                    Standing::Pause(failure.retry_after.unwrap_or_else(|| back_off(job.tries)))
                }
                reason @ (Reason::Timeout
                | Reason::ConnectionFailed
                | Reason::DnsFailed
                | Reason::HostNotFound) => Standing::Silent(reason),
                _ => Standing::Alive,
            },
        };
        self.schedule.ended(&host, standing, now);
        match answer {
            Answer::Image(bytes) => self.fill(job.row, Ok(bytes), Some(held)),
            Answer::NoRoom => self.schedule.add(job, now),
            Answer::Redirect(_) if job.hops >= self.options.max_redirects => {
                let detail = format!("more than {} redirects", self.options.max_redirects);
                self.fail(job.row, Failure::new(Reason::BadRedirect, detail));
            }
            Answer::Redirect(url) => self.schedule.add(Job { url, hops: job.hops + 1, ..job }, now),
            Answer::Failed(failure) => {
                let tries = match failure.reason {
                    Reason::ServerError | Reason::RateLimited => TRIES_AFTER_ERROR,
                    Reason::ConnectionFailed | Reason::DnsFailed => TRIES_AFTER_BREAK,
                    _ => 0,
                };
                if job.tries >= tries {
                    return self.fail(job.row, failure);
                }
                let at = now
                    + if failure.reason == Reason::RateLimited {
                        Duration::ZERO
                    } else {
                        back_off(job.tries)
                    };
                self.schedule.add_later(Job { tries: job.tries + 1, ..job }, at);
            }
        }
    }

    fn fail(&mut self, row: u64, failure: Failure) {
        self.fill(row, Err((failure.reason, failure.detail)), None);
    }

    fn fill(&mut self, row: u64, image: Result<Vec<u8>, (Reason, String)>, held: Option<Held>) {
        let Some(slot) = row.checked_sub(self.first).and_then(|at| self.slots.get_mut(at as usize))
        else {
            return;
        };
        if let Slot::Waiting(record, next) = slot {
            let record = Record { image, ..std::mem::take(record) };
            *slot = Slot::Ready(Done { item: Item::Record(record), next: *next, held });
        }
    }

    /// Passes on the finished rows at the front.
    fn hand_on(&mut self) {
        while let Some(Slot::Ready(_)) = self.slots.front() {
            if let Some(Slot::Ready(done)) = self.slots.pop_front() {
                self.first += 1;
                // If the caller's thread has failed, it aborts this task.
                let _ = self.done.send(done);
            }
        }
    }

    /// Starts no more requests, and waits for running ones. Finished rows count. Unfinished rows
    /// before them go to the ledger for the next attempt; those after the last finished row count
    /// as never read.
    async fn wind_up(&mut self) {
        self.schedule.clear();
        let deadline = tokio::time::Instant::now() + GRACE;
        loop {
            tokio::select! {
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => self.take(ended),
                    None => break,
                },
                () = tokio::time::sleep_until(deadline) => {
                    self.tasks.abort_all();
                    while self.tasks.join_next().await.is_some() {}
                    break;
                }
            }
        }
        self.schedule.clear();
        let last = self.slots.iter().rposition(|slot| matches!(slot, Slot::Ready(_)));
        self.slots.truncate(last.map_or(0, |last| last + 1));
        for row in self.first..self.first + self.slots.len() as u64 {
            self.fail(
                row,
                Failure::new(Reason::Postponed, "the ingest was stopped before its turn"),
            );
        }
        self.hand_on();
    }
}

/// Returns whether a record lacks only its image.
fn is_wanted(record: &Record) -> bool {
    record.image.is_ok()
        && record
            .caption
            .as_ref()
            .is_ok_and(|caption| !caption.trim().is_empty() && caption.len() <= MAX_CAPTION_BYTES)
}

/// Returns the checked URL in place of the image.
fn address_of(record: &Record, options: &DownloadOptions) -> Option<Result<Url, (Reason, String)>> {
    let bytes = record.image.as_ref().ok()?;
    let bad = |detail: String| Err((Reason::BadUrl, detail));
    if bytes.len() > MAX_URL_BYTES {
        return Some(bad(format!(
            "the URL has {} bytes, above the limit of {MAX_URL_BYTES}",
            bytes.len()
        )));
    }
    let parsed = std::str::from_utf8(bytes)
        .map_err(|e| e.to_string())
        .and_then(|text| Url::parse(text.trim()).map_err(|e| e.to_string()));
    Some(match parsed {
        Err(error) => bad(error),
        Ok(mut url) => {
            url.set_fragment(None);
            address::check(&url, options.private_hosts).map(|()| url)
        }
    })
}

/// Returns a pause that doubles with each retry and varies from row to row, so that they do not
/// come back at once.
fn back_off(tries: u8) -> Duration {
    FIRST_WAIT.mul_f64(f64::from(1_u32 << tries.min(6)) * rand::rng().random_range(0.5..1.5))
}

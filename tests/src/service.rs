//! `diptych serve` in a test: started, queried over HTTP like any client does, killed with the
//! test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use diptych_test_support::eventually;
use serde_json::Value;

use crate::Work;

/// How long a test waits for something before it fails.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A process that is killed with its test.
pub struct Process(pub Child);

impl Process {
    pub fn signal(&self, name: &str) {
        assert!(
            Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success()
        );
    }

    /// Sends SIGKILL. The process may have ended before.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Waits for the end and returns the exit code, or `None` if a signal ended it.
    pub fn ends(&mut self) -> Option<i32> {
        eventually(PATIENCE, "the process to end", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service with the `diptych.toml` of a test's folder. Its log is `serve.log`.
pub struct Service {
    process: Process,
    /// The address that clients use.
    pub address: String,
    token: Option<String>,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// Method and path.
    pub request: String,
    pub status: u16,
    /// Null if the body is not JSON.
    pub json: Value,
    pub bytes: Vec<u8>,
}

impl Answer {
    /// Checks that the status is a success, and returns the body.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.json);
        self.json
    }

    /// Checks that it is a problem (RFC 9457) with this status, whose words are the snapshot
    /// `http/MESSAGE`.
    #[track_caller]
    pub fn refused(self, status: u16, message: &str) {
        assert_eq!(self.status, status, "{}", self.json);
        assert_eq!(self.json["status"], status, "{}", self.json);
        let field = |name: &str| self.json[name].as_str().unwrap_or_default();
        let code = match field("code") {
            "" => String::new(),
            code => format!(" ({code})"),
        };
        let (title, detail) = (field("title"), field("detail"));
        let text = format!("{}\n{status} {title}{code}\n{detail}\n", self.request);
        crate::messages::check("http", message, &text);
    }
}

/// Sends a request to an address: `http://…` or `unix:PATH`.
pub fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<(&str, Vec<u8>)>,
) -> Answer {
    try_to_send(address, method, path, headers, body).unwrap()
}

/// Sends a request to an address where no service may answer.
pub fn try_to_send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<(&str, Vec<u8>)>,
) -> reqwest::Result<Answer> {
    let mut client = reqwest::Client::builder().no_proxy();
    let mut address = address.to_owned();
    if let Some(socket) = address.strip_prefix("unix:") {
        client = client.unix_socket(PathBuf::from(socket));
        address = "http://localhost".into();
    }
    let mut request =
        client.build().unwrap().request(method.parse().unwrap(), format!("{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some((kind, body)) = body {
        request = request.header("content-type", kind).body(body);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = request.timeout(PATIENCE).send().await?;
        for name in response.headers().keys() {
            let values: Vec<_> = response.headers().get_all(name).iter().collect();
            assert_eq!(values.len(), 1, "{method} {path} sends {name} twice: {values:?}");
        }
        let status = response.status().as_u16();
        let bytes = response.bytes().await?.to_vec();
        let json = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(Answer { request: format!("{method} {path}"), status, json, bytes })
    })
}

impl Service {
    /// Starts it and waits until it answers.
    pub fn start(work: &Work) -> Self {
        Self::start_with(work, &[])
    }

    /// Starts it with variables in its environment.
    pub fn start_with(work: &Work, variables: &[(&str, &Path)]) -> Self {
        let log = File::options().create(true).append(true).open(work.path("serve.log")).unwrap();
        let mut command = work.command(&["serve", "diptych.toml"]);
        command.envs(variables.iter().copied());
        let mut process =
            Process(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let owner = work.path("state/owner.json");
        let address = eventually(PATIENCE, "the service to answer", || {
            assert!(
                process.0.try_wait().unwrap().is_none(),
                "it ended:\n{}",
                work.read("serve.log")
            );
            let note: Value = serde_json::from_slice(&std::fs::read(&owner).ok()?).ok()?;
            (note["pid"] == process.0.id())
                .then(|| note["address"].as_str().map(str::to_owned))
                .flatten()
        });
        Self { process, address, token: None }
    }

    /// Uses this token for all further requests.
    pub fn with_token(mut self, token: Option<&str>) -> Self {
        self.token = token.map(str::to_owned);
        self
    }

    /// Sends a request with a JSON body.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(|body| ("application/json", body.to_string().into_bytes()));
        self.send(method, path, &[], body)
    }

    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None).ok()
    }

    /// Sends a request. Fails if a header of the answer comes twice.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, Vec<u8>)>,
    ) -> Answer {
        let authorization = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut headers = headers.to_vec();
        headers.extend(authorization.as_deref().map(|bearer| ("authorization", bearer)));
        send(&self.address, method, path, &headers, body)
    }

    /// Returns the rows of a query over the state folder and, if one is named, a dataset.
    pub fn sql(&self, query: &str, dataset: Option<&str>) -> Value {
        let asked = serde_json::json!({ "query": query, "dataset": dataset });
        self.ask("POST", "/v1/sql", Some(&asked)).ok()["rows"].clone()
    }

    /// Returns the state of a job.
    pub fn state_of(&self, job: u64) -> String {
        self.get(&format!("/v1/jobs/{job}"))["state"].as_str().unwrap().to_owned()
    }

    /// Waits until a job is in a state. Fails if it ends in another one.
    pub fn waits_until(&self, job: u64, state: &str) {
        eventually(PATIENCE, &format!("job {job} to be {state}"), || {
            let job = self.get(&format!("/v1/jobs/{job}"));
            let now = job["state"].as_str().unwrap();
            let ended = ["done", "failed", "cancelled"].contains(&now);
            assert!(now == state || !ended, "{job}");
            (now == state).then_some(())
        });
    }

    /// Returns the step of the running training.
    pub fn step(&self) -> Option<u64> {
        self.get("/v1/status")["running"]
            .as_array()
            .unwrap()
            .iter()
            .find_map(|running| running["step"].as_u64())
    }

    /// Waits until the running training has reached a step.
    pub fn waits_for_step(&self, step: u64) -> u64 {
        eventually(PATIENCE, &format!("step {step}"), || self.step().filter(|now| *now >= step))
    }

    /// Sends SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub fn process_id(&self) -> u32 {
        self.process.0.id()
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn leaves(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.process.ends()
    }
}

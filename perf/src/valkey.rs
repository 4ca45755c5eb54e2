//! Valkey servers for the measurements, and the benchmark tool of Valkey.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::{Connection, FromRedisValue, Value};

use crate::child::{self, ChildProcess};
use crate::clock::now;
use crate::cpu;
use crate::failure::Failure;
use crate::repository;

/// Maximum time until a reply, and until a call is observed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The text that the benchmark tool replaces by a random number of twelve digits.
const RANDOM: &str = "__rand_int__";
/// The random numbers are below this: so large that hardly two are equal.
const RANDOM_BELOW: &str = "1000000000000";

/// The folder with the programs of Valkey.
#[derive(Debug)]
pub(crate) struct ValkeyPrograms(PathBuf);

/// One server that appends each change to a file and syncs it every second, as the documentation recommends.
#[derive(Debug)]
pub(crate) struct Valkey {
    programs: PathBuf,
    process: ChildProcess,
}

impl ValkeyPrograms {
    /// Finds the programs in the stack. The error names the missing program.
    pub(crate) fn find() -> Result<Self, String> {
        let folder = repository::stack().map_err(|error| error.to_string())?.join("usr/bin");
        for program in ["valkey-server", "valkey-benchmark"] {
            if !folder.join(program).exists() {
                return Err(format!("{program} (make stack)"));
            }
        }
        Ok(Self(folder))
    }

    /// Starts a server.
    pub(crate) fn start(&self, core: usize) -> Result<Valkey, Failure> {
        let folder = child::folder()?;
        let mut command = child::killed_with_this(Path::new("sh"))?;
        let line = r#"exec "$0" --port "$PORT" --bind 127.0.0.1 --dir "$1" --save '' --appendonly yes --appendfsync everysec"#;
        command.args(["-c", line]).arg(self.0.join("valkey-server")).arg(&folder);
        let process = ChildProcess::listening("Valkey", command, "PORT", folder, core)?;
        Ok(Valkey { programs: self.0.clone(), process })
    }
}

impl Valkey {
    /// Returns the address at which it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Calls a command.
    pub(crate) fn call<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, Failure> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        Ok(command.query(&mut self.connect()?)?)
    }

    /// Returns how often a command was called, by clients or by scripts.
    pub(crate) fn calls(&self, command: &str) -> Result<u64, Failure> {
        let text: String = self.call(&["INFO", "commandstats"])?;
        let begin = format!("cmdstat_{command}:calls=");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin));
        let digits = line.and_then(|rest| rest.split(',').next()).unwrap_or("0");
        Ok(digits.parse()?)
    }

    /// Returns the words of the first script call during `act` that `matches` accepts.
    pub(crate) fn observe_call(
        &self,
        matches: impl Fn(&[String]) -> bool,
        act: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Vec<String>, Failure> {
        let mut monitor = self.connect()?;
        redis::cmd("MONITOR").exec(&mut monitor)?;
        act()?;
        let begin = now();
        while now() < begin + TIMEOUT {
            let Value::SimpleString(line) = monitor.recv_response()? else { continue };
            let words = words(&line);
            if words.first().is_some_and(|word| word == "EVALSHA") && matches(&words) {
                return Ok(words);
            }
        }
        Err("the call was not observed".into())
    }

    /// Returns how many calls per second the benchmark tool reaches, which runs on `core` with this number of clients.
    pub(crate) fn rate(
        &self,
        words: &[String],
        clients: usize,
        calls: u64,
        core: usize,
    ) -> Result<f64, Failure> {
        let mut command = Command::new(self.programs.join("valkey-benchmark"));
        command
            .args([
                "-p",
                &self.address().port().to_string(),
                "-c",
                &clients.to_string(),
                "-n",
                &calls.to_string(),
            ])
            .args(["-r", RANDOM_BELOW, "--csv"])
            .args(words)
            .stdin(Stdio::null());
        let output = cpu::on(core, || command.output())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().and_then(|line| line.rsplit_once("\",\"").map(|_| line));
        let rate = last
            .and_then(|line| line.split("\",\"").nth(1))
            .and_then(|rate| rate.trim_matches('"').parse().ok());
        rate.ok_or_else(|| {
            format!("unknown output of valkey-benchmark: {text}{}", String::from_utf8_lossy(&output.stderr))
                .into()
        })
    }

    /// Returns the median of the microseconds of a PING, one after another.
    pub(crate) fn round_trip(&self, time: Duration) -> Result<f64, Failure> {
        let mut connection = self.connect()?;
        let mut times = crate::load::histogram();
        let begin = now();
        while times.len() < 100 || now() - begin < time {
            let start = now();
            redis::cmd("PING").exec(&mut connection)?;
            times.saturating_record(crate::load::nanos(now() - start));
        }
        Ok(times.value_at_quantile(0.5) as f64 / 1000.0)
    }

    fn connect(&self) -> Result<Connection, Failure> {
        let client = redis::Client::open(format!("redis://{}", self.address()))?;
        let connection = client.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        Ok(connection)
    }
}

/// Returns a call with a new token each time that the benchmark tool makes it.
pub(crate) fn with_random_token(call: &[String]) -> Vec<String> {
    let is_token = |word: &str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    call.iter()
        .map(|word| if is_token(word) { format!("{}{RANDOM}", "0".repeat(20)) } else { word.clone() })
        .collect()
}

/// Returns the quoted words in a line of MONITOR. No word of this server's calls contains a quote.
fn words(line: &str) -> Vec<String> {
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_from_a_line_of_monitor() {
        let line =
            r#"1700000000.1 [0 127.0.0.1:5] "EVALSHA" "abc" "1" "{p}" "" "0123456789abcdef0123456789abcdef""#;
        let call = words(line);
        assert_eq!(call[..5], ["EVALSHA", "abc", "1", "{p}", ""]);
        assert_eq!(with_random_token(&call)[5], "00000000000000000000__rand_int__");
    }
}

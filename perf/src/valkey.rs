//! A Valkey of our own, and its own tool for measuring.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::{Connection, FromRedisValue, Value};

use crate::Failure;
use crate::child::{self, Running};
use crate::clock::now;
use crate::cores;

/// Longest time of one answer, and until something is seen.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the measuring tool puts a random number of twelve digits in the place of.
const RANDOM: &str = "__rand_int__";
/// Random numbers to choose from: so many that hardly two are the same.
const RANDOM_BELOW: &str = "1000000000000";

/// Its programs.
#[derive(Debug)]
pub(crate) struct Programs(PathBuf);

/// One server that keeps each change in a file, synced every second, as operators are told to run it.
#[derive(Debug)]
pub(crate) struct Valkey {
    programs: PathBuf,
    running: Running,
}

impl Programs {
    /// Those of this repository's stack; the missing part's name where it was not installed.
    pub(crate) fn find() -> Result<Self, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stack/usr/bin");
        for program in ["valkey-server", "valkey-benchmark"] {
            if !folder.join(program).exists() {
                return Err(format!("{program} (make stack)"));
            }
        }
        Ok(Self(folder))
    }

    /// Starts one.
    pub(crate) fn start(&self, core: usize) -> Result<Valkey, Failure> {
        let folder = child::folder()?;
        let mut command = child::leashed(Path::new("sh"))?;
        let line = r#"exec "$0" --port "$PORT" --bind 127.0.0.1 --dir "$1" --save '' --appendonly yes --appendfsync everysec"#;
        command.args(["-c", line]).arg(self.0.join("valkey-server")).arg(&folder);
        let running = Running::listening("Valkey", command, "PORT", folder, core)?;
        Ok(Valkey { programs: self.0.clone(), running })
    }
}

impl Valkey {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// Asks it.
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, Failure> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        Ok(command.query(&mut self.connect()?)?)
    }

    /// How often a command was called, by clients or by scripts.
    pub(crate) fn calls(&self, command: &str) -> Result<u64, Failure> {
        let text: String = self.ask(&["INFO", "commandstats"])?;
        let begin = format!("cmdstat_{command}:calls=");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin));
        let digits = line.and_then(|rest| rest.split(',').next()).unwrap_or("0");
        Ok(digits.parse()?)
    }

    /// The words of the first script call that `is_it` says it is, while `act` is done.
    pub(crate) fn overhear(
        &self,
        is_it: impl Fn(&[String]) -> bool,
        act: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<Vec<String>, Failure> {
        let mut listening = self.connect()?;
        redis::cmd("MONITOR").exec(&mut listening)?;
        act()?;
        let begin = now();
        while now() < begin + PATIENCE {
            let Value::SimpleString(line) = listening.recv_response()? else { continue };
            let words = words(&line);
            if words.first().is_some_and(|word| word == "EVALSHA") && is_it(&words) {
                return Ok(words);
            }
        }
        Err("the call was not seen".into())
    }

    /// How many such calls a second it does for its own tool, which is on `core`. `clients` of them ask at a time.
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
        let output = cores::on(core, || command.output())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().and_then(|line| line.rsplit_once("\",\"").map(|_| line));
        let rate = last
            .and_then(|line| line.split("\",\"").nth(1))
            .and_then(|rate| rate.trim_matches('"').parse().ok());
        rate.ok_or_else(|| {
            format!("valkey-benchmark said: {text}{}", String::from_utf8_lossy(&output.stderr)).into()
        })
    }

    /// Microseconds of a PING, one after another: the median.
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
        let connection = client.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        Ok(connection)
    }
}

/// The same call, with a new token each time.
pub(crate) fn with_random_token(call: &[String]) -> Vec<String> {
    let is_token = |word: &str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    call.iter()
        .map(|word| if is_token(word) { format!("{}{RANDOM}", "0".repeat(20)) } else { word.clone() })
        .collect()
}

/// The words in quotes of a line that MONITOR tells. None of ours has a quote in it.
fn words(line: &str) -> Vec<String> {
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_from_what_monitor_tells() {
        let line =
            r#"1700000000.1 [0 127.0.0.1:5] "EVALSHA" "abc" "1" "{p}" "" "0123456789abcdef0123456789abcdef""#;
        let call = words(line);
        assert_eq!(call[..5], ["EVALSHA", "abc", "1", "{p}", ""]);
        assert_eq!(with_random_token(&call)[5], "00000000000000000000__rand_int__");
    }
}

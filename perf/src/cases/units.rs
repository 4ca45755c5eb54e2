//! The units: what this machine does without us.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Bench;
use crate::Failure;
use crate::clock::now;
use crate::load::{histogram, nanos};
use crate::roles::PING;

impl Bench {
    /// Microseconds of a ping of 100 bytes over loopback TCP and its echo, between the two cores: the median.
    pub(super) fn rtt(&self) -> Result<f64, Failure> {
        let mut socket = TcpStream::connect(self.echo.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut ping = [7; PING];
        let mut times = histogram();
        let begin = now();
        while times.len() < 100 || now() - begin < self.scale.window / 4 {
            let start = now();
            socket.write_all(&ping)?;
            socket.read_exact(&mut ping)?;
            times.saturating_record(nanos(now() - start));
        }
        Ok(times.value_at_quantile(0.5) as f64 / 1000.0)
    }
}

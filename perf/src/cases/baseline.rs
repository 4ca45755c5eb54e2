//! The baselines: what this machine does without the server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::bench::Bench;
use crate::clock::now;
use crate::failure::Failure;
use crate::load::{histogram, nanos};
use crate::peers::PING_BYTES;

impl Bench {
    /// Returns the median of the microseconds of a ping of 100 bytes over loopback TCP and its echo, between the two
    /// cores.
    pub(super) fn rtt(&self) -> Result<f64, Failure> {
        let mut socket = TcpStream::connect(self.echo.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut ping = [7; PING_BYTES];
        let mut times = histogram();
        let begin = now();
        while times.len() < 100 || now() - begin < self.size.window / 4 {
            let start = now();
            socket.write_all(&ping)?;
            socket.read_exact(&mut ping)?;
            times.saturating_record(nanos(now() - start));
        }
        Ok(times.value_at_quantile(0.5) as f64 / 1000.0)
    }
}

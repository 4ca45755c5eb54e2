//! The load: many connections on one thread, each with one request in flight.
//!
//! In a closed load, each connection sends the next request as soon as it has the response, which finds the maximum
//! rate of the server. In an open load, requests are due at random times at a given rate, whether or not earlier ones
//! have responses. The time of a request begins when it is due, so that a wait for a connection or for this thread
//! counts.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::clock::now;
use crate::failure::Failure;
use crate::response::{self, HttpResponse};

/// Number of connections of a load, unless its responses are large.
pub(crate) const CONNECTIONS: usize = 64;
/// Bytes of the read buffer of a connection at first. It grows for longer responses.
const BUFFER_BYTES: usize = 4096;
/// Maximum time without any response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The requests of a load, and what is done with the responses.
pub(crate) trait Traffic {
    /// Returns the number of connections.
    fn connections(&self) -> usize {
        CONNECTIONS
    }

    /// Returns the next request of a connection, and whether its time is measured.
    fn next_request(&mut self, connection: usize) -> (&[u8], bool);

    /// Receives the response to that request. An error ends the load.
    fn receive(&mut self, connection: usize, response: HttpResponse<'_>) -> Result<(), Failure>;
}

/// When a load ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// After this time. The first tenth does not count.
    Elapsed(Duration),
    /// After this number of measured responses.
    Responses(u64),
}

/// The result of a load.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Measured responses per second.
    pub(crate) rate: f64,
    /// All responses, including those that do not count.
    pub(crate) responses: u64,
    /// Nanoseconds from when a request was due until its response was complete.
    pub(crate) times: Histogram<u64>,
}

/// One connection.
struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// When its request was due.
    due: Instant,
    is_measured: bool,
}

/// All connections of a load to one address.
struct Connections {
    epoll: rustix::fd::OwnedFd,
    all: Vec<Connection>,
    events: Vec<epoll::Event>,
}

/// Runs a closed load.
pub(crate) fn closed(
    address: SocketAddr,
    until: Until,
    traffic: &mut impl Traffic,
) -> Result<Outcome, Failure> {
    let count = match until {
        Until::Elapsed(_) => traffic.connections(),
        Until::Responses(count) => traffic.connections().min(count as usize),
    };
    let mut connections = Connections::open(address, count)?;
    let begin = now();
    let (counted_from, end, max_requests) = match until {
        Until::Elapsed(time) => (begin + time / 10, Some(begin + time), u64::MAX),
        Until::Responses(count) => (begin, None, count),
    };
    let (mut sent, mut times) = (0, histogram());
    for index in 0..count {
        sent += u64::from(connections.send(index, begin, traffic)?);
    }
    let mut last = begin;
    let mut received = begin;
    // The responses to measured requests, and all responses.
    let (mut measured, mut responses) = (0, 0);
    loop {
        // This thread never sleeps: else a server that is slower than this thread would pay for waking it with each
        // response, and would seem slower still. Other processes on this core run when there is nothing to read.
        let ready = connections.wait(Duration::ZERO)?;
        if ready.is_empty() {
            if now() >= received + RESPONSE_TIMEOUT {
                return Err("the server has stopped responding".into());
            }
            rustix::thread::sched_yield();
        }
        for index in ready {
            if !connections.receive(index, traffic)? {
                continue;
            }
            received = now();
            responses += 1;
            let connection = &connections.all[index];
            if connection.is_measured {
                measured += 1;
                if received >= counted_from && end.is_none_or(|end| received < end) {
                    times.saturating_record(nanos(received - connection.due));
                    last = received;
                }
            }
            if sent < max_requests && end.is_none_or(|end| received < end) {
                sent += u64::from(connections.send(index, received, traffic)?);
            }
        }
        if end.is_some_and(|end| now() >= end) || measured >= max_requests {
            break;
        }
    }
    let took = end.unwrap_or(last) - counted_from;
    Ok(Outcome { rate: times.len() as f64 / took.as_secs_f64(), responses, times })
}

/// Runs an open load at a rate, in requests per second whether measured or not, and waits for the last responses.
pub(crate) fn open(
    address: SocketAddr,
    rate: f64,
    time: Duration,
    traffic: &mut impl Traffic,
) -> Result<Outcome, Failure> {
    // The system may wake a thread 50 µs late to save power, which would count as the server's time.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut connections = Connections::open(address, traffic.connections())?;
    let mut free: Vec<usize> = (0..traffic.connections()).collect();
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let mut arrivals = Arrivals::new(rate);
    let mut times = histogram();
    let begin = now();
    let end = begin + time;
    let mut next = begin + arrivals.gap();
    let (mut in_flight, mut responses) = (0, 0);
    let mut received = begin;
    while next < end || in_flight > 0 || !waiting.is_empty() {
        let mut present = now();
        while next < end && next <= present {
            waiting.push_back(next);
            next += arrivals.gap();
        }
        while let Some(due) = waiting.front().copied()
            && let Some(index) = free.pop()
        {
            waiting.pop_front();
            connections.send(index, due, traffic)?;
            in_flight += 1;
            present = now();
        }
        if in_flight > 0 && present > received.max(begin) + RESPONSE_TIMEOUT {
            return Err("the server has stopped responding".into());
        }
        let timeout = if next < end { next.saturating_duration_since(present) } else { RESPONSE_TIMEOUT };
        for index in connections.wait(timeout.min(RESPONSE_TIMEOUT))? {
            if !connections.receive(index, traffic)? {
                continue;
            }
            received = now();
            let connection = &connections.all[index];
            if connection.is_measured {
                times.saturating_record(nanos(received - connection.due));
            }
            in_flight -= 1;
            responses += 1;
            free.push(index);
        }
    }
    Ok(Outcome { rate: times.len() as f64 / time.as_secs_f64(), responses, times })
}

impl Connections {
    fn open(address: SocketAddr, count: usize) -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut all = Vec::with_capacity(count);
        for index in 0..count {
            let socket = TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            all.push(Connection {
                socket,
                buffer: vec![0; BUFFER_BYTES],
                filled: 0,
                due: now(),
                is_measured: false,
            });
        }
        Ok(Self { epoll, all, events: Vec::with_capacity(count) })
    }

    /// Waits until connections have something to read, and returns them.
    fn wait(&mut self, timeout: Duration) -> Result<Vec<usize>, Failure> {
        let timeout = Timespec::try_from(timeout)?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().map(|event| event.data.u64() as usize).collect())
    }

    /// Sends the next request, which was due at `due`. Returns whether it is measured.
    fn send(&mut self, index: usize, due: Instant, traffic: &mut impl Traffic) -> Result<bool, Failure> {
        let connection = &mut self.all[index];
        let (request, is_measured) = traffic.next_request(index);
        // The request fits into the socket's buffer, which is empty.
        if connection.socket.write(request)? != request.len() {
            return Err("a request was sent only in part".into());
        }
        (connection.due, connection.is_measured) = (due, is_measured);
        Ok(is_measured)
    }

    /// Reads from a connection. Returns whether its response is complete.
    fn receive(&mut self, index: usize, traffic: &mut impl Traffic) -> Result<bool, Failure> {
        let connection = &mut self.all[index];
        if connection.filled == connection.buffer.len() {
            connection.buffer.resize(2 * connection.filled, 0);
        }
        match connection.socket.read(&mut connection.buffer[connection.filled..]) {
            Ok(0) => return Err("the server closed the connection".into()),
            Ok(read) => connection.filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let Some(response) = response::read(&connection.buffer[..connection.filled])? else {
            return Ok(false);
        };
        if response.len != connection.filled {
            return Err("the server sent more than a response".into());
        }
        traffic.receive(index, response)?;
        connection.filled = 0;
        Ok(true)
    }
}

/// The times between requests of independent visitors, so that their number in any second is random. They are the same
/// in each run.
struct Arrivals {
    state: u64,
    mean: f64,
}

impl Arrivals {
    fn new(rate: f64) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, mean: 1.0 / rate }
    }

    fn gap(&mut self) -> Duration {
        // Marsaglia's xorshift, and an exponentially distributed time from it.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let from_0_to_1 = ((self.state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-from_0_to_1.ln() * self.mean)
    }
}

/// Returns a histogram for times of up to a minute, in nanoseconds, with an error of at most a thousandth.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("these bounds are valid")
}

/// Returns a time in nanoseconds, as a histogram records it.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

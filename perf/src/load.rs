//! The load: many connections on one thread, each with one request under way.
//!
//! Closed, each connection asks again as soon as it is answered, which finds the most that the other side can do.
//! Open, requests are due at random moments at a given rate, whether or not earlier ones are answered, and a
//! request's time runs from the moment at which it was due: one that had to wait for a connection, or for this
//! thread, has that wait counted.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::Failure;
use crate::answer::{self, Answer};
use crate::clock::now;

/// Connections of a load.
pub(crate) const LINKS: usize = 64;
/// Room of a connection for what it reads; it grows when an answer is longer.
const BUFFER: usize = 4096;
/// Longest silence of the other side.
const SILENCE: Duration = Duration::from_secs(10);

/// What to ask, and what to make of the answers.
pub(crate) trait Traffic {
    /// The next request of a connection, and whether its time is measured.
    fn next(&mut self, link: usize) -> (&[u8], bool);

    /// Takes the answer to that request. An error ends the load.
    fn answered(&mut self, link: usize, answer: Answer<'_>) -> Result<(), Failure>;
}

/// When a load ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// After this time; the first tenth does not count.
    Passed(Duration),
    /// After so many measured answers.
    Answered(u64),
}

/// What came of a load.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Measured answers a second.
    pub(crate) rate: f64,
    /// All answers, those that do not count too.
    pub(crate) answered: u64,
    /// Nanoseconds from when a request was due to its whole answer.
    pub(crate) times: Histogram<u64>,
}

/// One connection.
struct Link {
    socket: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    due: Instant,
    measured: bool,
}

/// All connections of a load to one address.
struct Links {
    epoll: rustix::fd::OwnedFd,
    links: Vec<Link>,
    events: Vec<epoll::Event>,
}

/// Asks as fast as answers come.
pub(crate) fn closed(
    address: SocketAddr,
    until: Until,
    traffic: &mut impl Traffic,
) -> Result<Outcome, Failure> {
    let count = match until {
        Until::Passed(_) => LINKS,
        Until::Answered(count) => LINKS.min(count as usize),
    };
    let mut links = Links::open(address, count)?;
    let begin = now();
    let (counted_from, end, most) = match until {
        Until::Passed(time) => (begin + time / 10, Some(begin + time), u64::MAX),
        Until::Answered(count) => (begin, None, count),
    };
    let (mut asked, mut times) = (0, histogram());
    for index in 0..count {
        asked += u64::from(links.ask(index, begin, traffic)?);
    }
    let mut last = begin;
    let mut heard = begin;
    // Measured requests that were answered.
    let mut done = 0;
    let mut answered = 0;
    loop {
        // Never asleep: a server that is slower than this thread would pay for waking it with each answer, and would
        // seem slower still. Who else is on this core gets it in between.
        let ready = links.wait(Duration::ZERO)?;
        if ready.is_empty() {
            if now() >= heard + SILENCE {
                return Err("no answer comes any more".into());
            }
            rustix::thread::sched_yield();
        }
        for index in ready {
            if !links.hear(index, traffic)? {
                continue;
            }
            heard = now();
            answered += 1;
            let link = &links.links[index];
            if link.measured {
                done += 1;
                if heard >= counted_from && end.is_none_or(|end| heard < end) {
                    times.saturating_record(nanos(heard - link.due));
                    last = heard;
                }
            }
            if asked < most && end.is_none_or(|end| heard < end) {
                asked += u64::from(links.ask(index, heard, traffic)?);
            }
        }
        if end.is_some_and(|end| now() >= end) || done >= most {
            break;
        }
    }
    let took = end.unwrap_or(last) - counted_from;
    Ok(Outcome { rate: times.len() as f64 / took.as_secs_f64(), answered, times })
}

/// Asks at a rate (measured and other requests together, a second) for some time, then waits for the last answers.
pub(crate) fn open(
    address: SocketAddr,
    rate: f64,
    time: Duration,
    traffic: &mut impl Traffic,
) -> Result<Outcome, Failure> {
    // The system may wake a thread 50 µs late to save power, which here would count as the server's time.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut links = Links::open(address, LINKS)?;
    let mut free: Vec<usize> = (0..LINKS).collect();
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let mut moments = Moments::new(rate);
    let mut times = histogram();
    let begin = now();
    let end = begin + time;
    let mut next = begin + moments.gap();
    let (mut under_way, mut answered) = (0, 0);
    let mut heard = begin;
    while next < end || under_way > 0 || !waiting.is_empty() {
        let mut present = now();
        while next < end && next <= present {
            waiting.push_back(next);
            next += moments.gap();
        }
        while let Some(due) = waiting.front().copied()
            && let Some(index) = free.pop()
        {
            waiting.pop_front();
            links.ask(index, due, traffic)?;
            under_way += 1;
            present = now();
        }
        if under_way > 0 && present > heard.max(begin) + SILENCE {
            return Err("no answer comes any more".into());
        }
        let patience = if next < end { next.saturating_duration_since(present) } else { SILENCE };
        for index in links.wait(patience.min(SILENCE))? {
            if !links.hear(index, traffic)? {
                continue;
            }
            heard = now();
            let link = &links.links[index];
            if link.measured {
                times.saturating_record(nanos(heard - link.due));
            }
            under_way -= 1;
            answered += 1;
            free.push(index);
        }
    }
    Ok(Outcome { rate: times.len() as f64 / time.as_secs_f64(), answered, times })
}

impl Links {
    fn open(address: SocketAddr, count: usize) -> Result<Self, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut links = Vec::with_capacity(count);
        for index in 0..count {
            let socket = TcpStream::connect(address)?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            links.push(Link { socket, buffer: vec![0; BUFFER], filled: 0, due: now(), measured: false });
        }
        Ok(Self { epoll, links, events: Vec::with_capacity(count) })
    }

    /// The connections with something to read.
    fn wait(&mut self, patience: Duration) -> Result<Vec<usize>, Failure> {
        let patience = Timespec::try_from(patience)?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().map(|event| event.data.u64() as usize).collect())
    }

    /// Sends the next request, which was due at `due`. Says whether it is measured.
    fn ask(&mut self, index: usize, due: Instant, traffic: &mut impl Traffic) -> Result<bool, Failure> {
        let link = &mut self.links[index];
        let (request, measured) = traffic.next(index);
        // It fits the socket's buffer: there is nothing else in it.
        if link.socket.write(request)? != request.len() {
            return Err("a request was sent in part only".into());
        }
        (link.due, link.measured) = (due, measured);
        Ok(measured)
    }

    /// Reads what came. Says whether the answer is whole now.
    fn hear(&mut self, index: usize, traffic: &mut impl Traffic) -> Result<bool, Failure> {
        let link = &mut self.links[index];
        if link.filled == link.buffer.len() {
            link.buffer.resize(2 * link.filled, 0);
        }
        match link.socket.read(&mut link.buffer[link.filled..]) {
            Ok(0) => return Err("the other side closed the connection".into()),
            Ok(read) => link.filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let Some(answer) = answer::read(&link.buffer[..link.filled])? else { return Ok(false) };
        if answer.len != link.filled {
            return Err("more came than an answer".into());
        }
        traffic.answered(index, answer)?;
        link.filled = 0;
        Ok(true)
    }
}

/// Times between requests of visitors who know nothing of each other, so that their number in any second is
/// random; the same times in each run.
struct Moments {
    state: u64,
    mean: f64,
}

impl Moments {
    fn new(rate: f64) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, mean: 1.0 / rate }
    }

    fn gap(&mut self) -> Duration {
        // Marsaglia's xorshift, and from it an exponential time.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let from_0_to_1 = ((self.state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-from_0_to_1.ln() * self.mean)
    }
}

/// For times of up to a minute, in nanoseconds, true to a thousandth.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("these bounds are sound")
}

/// A time as a histogram takes it.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

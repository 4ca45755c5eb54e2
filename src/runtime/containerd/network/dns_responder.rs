//! The name server of an instance with a list of destinations: it answers for the names of the list, and for no other.
//!
//! A real name server would carry data out of an instance in the names that it is asked for. This one sends nothing
//! anywhere: its answers are the addresses that this server looked up itself and that the firewall allows, so an app and
//! the firewall always agree. Its socket is in the instance's own network namespace, so it needs no port of this host
//! and no hole in the firewall, and no other instance reaches it.
//!
//! An answer has at most [`MAX_ANSWERS`] addresses, which fit into 512 bytes. So no client has to ask again by TCP.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use super::dns::ResolvedNames;
use crate::runtime::blocking::on_own_thread;

/// Where it listens, in the instance's namespace.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
const PORT: u16 = 53;

/// Most questions that are read in a [`WINDOW`]. The kernel drops those that do not fit into the socket's buffer.
const MAX_QUESTIONS: u32 = 20;
const WINDOW: Duration = Duration::from_millis(100);

/// Most addresses of an answer.
const MAX_ANSWERS: usize = 15;
/// How long an app may keep an answer, in seconds.
const ANSWER_TTL: u32 = 30;
/// The longest question that is read, in bytes: more than a header and the longest name.
const MAX_QUESTION: usize = 512;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const NO_ERROR: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const SERVER_FAILURE: u8 = 2;
/// That a name does not exist. `REFUSED` would be more exact, but musl asks again for seconds after it.
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// Opens the socket of the name server in an instance's namespace.
///
/// # Errors
/// The port is in use, or the kernel refuses.
pub(super) async fn listen(namespace: Arc<File>) -> io::Result<UdpSocket> {
    let socket = on_own_thread("name server of an instance", move || {
        setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
        StdUdpSocket::bind((ADDRESS, PORT))
    })
    .await?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Answers the questions at `socket` about `names`, until the socket fails.
pub(super) async fn run(socket: UdpSocket, names: BTreeSet<String>, resolved: Arc<ResolvedNames>) {
    let find = |name: &str| names.contains(name).then(|| resolved.newest_addresses(name));
    let mut question = [0; MAX_QUESTION];
    let (mut window_end, mut questions) = (Instant::now() + WINDOW, 0);
    loop {
        let (length, from) = match socket.recv_from(&mut question).await {
            Ok(received) => received,
            Err(error) => return tracing::warn!(%error, "name server of an instance failed"),
        };
        if Instant::now() >= window_end {
            (window_end, questions) = (Instant::now() + WINDOW, 0);
        }
        questions += 1;
        if let Some(answer) = answer(&question[..length], find) {
            send(&socket, &answer, from);
        }
        if questions >= MAX_QUESTIONS {
            sleep_until(window_end).await;
        }
    }
}

/// Sends an answer, unless that would have to wait: the instance asks again.
fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    let _ = socket.try_send_to(answer, to);
}

/// Returns the answer to a message; `None` if it is no question. `find` returns the addresses of a name in lower case,
/// or `None` if the name is not on the list.
fn answer(message: &[u8], find: impl Fn(&str) -> Option<Vec<Ipv4Addr>>) -> Option<Vec<u8>> {
    let header = message.first_chunk::<HEADER>()?;
    // A message that is an answer gets none, so that two name servers do not answer each other for ever.
    if header[2] & 0x80 != 0 {
        return None;
    }
    let is_query = header[2] & 0x78 == 0;
    let question = read_question(&message[HEADER..]).filter(|_| header[4..6] == [0, 1]);
    let (code, addresses) = match &question {
        _ if !is_query => (NOT_IMPLEMENTED, Vec::new()),
        None => (FORMAT_ERROR, Vec::new()),
        Some(question) => match find(&question.name) {
            None => (NO_SUCH_NAME, Vec::new()),
            Some(found) if (question.kind, question.class) == (TYPE_A, CLASS_IN) => {
                (if found.is_empty() { SERVER_FAILURE } else { NO_ERROR }, found)
            }
            // The name has no record of any other kind.
            Some(_) => (NO_ERROR, Vec::new()),
        },
    };
    let addresses = &addresses[..addresses.len().min(MAX_ANSWERS)];
    let question = question.filter(|_| is_query).map_or(0, |question| question.length);
    let mut answer = header[..2].to_vec();
    // An answer to the same operation, with recursion if it was asked for, and recursion is available.
    answer.extend([0x80 | (header[2] & 0x79), 0x80 | code]);
    answer.extend([0, u8::from(question > 0), 0, addresses.len() as u8, 0, 0, 0, 0]);
    answer.extend(&message[HEADER..HEADER + question]);
    for address in addresses {
        // The name is a pointer to the one in the question.
        answer.extend([0xc0, HEADER as u8, 0, TYPE_A as u8, 0, CLASS_IN as u8]);
        answer.extend(ANSWER_TTL.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// A question of a message.
struct Question {
    /// In lower case, without the dot at the end.
    name: String,
    kind: u16,
    class: u16,
    /// Its length in the message, in bytes.
    length: usize,
}

fn read_question(bytes: &[u8]) -> Option<Question> {
    let (mut name, mut at) = (String::new(), 0);
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => {
                let label = str::from_utf8(bytes.get(at..at + length)?).ok()?;
                // A label with a dot would look like two.
                if label.contains('.') || name.len() + length > 254 {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&label.to_ascii_lowercase());
                at += length;
            }
            // A pointer: a question has nothing before it to point to.
            _ => return None,
        }
    }
    let [kind_high, kind_low, class_high, class_low] = *bytes.get(at..)?.first_chunk::<4>()?;
    let (kind, class) =
        (u16::from_be_bytes([kind_high, kind_low]), u16::from_be_bytes([class_high, class_low]));
    Some(Question { name, kind, class, length: at + 4 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS_OF_IT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    fn ask(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    fn find(name: &str) -> Option<Vec<Ipv4Addr>> {
        match name {
            "api.example.com" => Some(vec![ADDRESS_OF_IT]),
            "many.example.com" => Some(vec![ADDRESS_OF_IT; 64]),
            "unknown.example.com" => Some(Vec::new()),
            _ => None,
        }
    }

    /// Returns the code and the number of addresses of an answer.
    fn outcome(message: &[u8]) -> (u8, u8) {
        let answer = answer(message, find).unwrap();
        assert!(answer.len() <= 512 && answer[..2] == message[..2]);
        (answer[3] & 15, answer[7])
    }

    #[test]
    fn only_names_of_the_list_have_addresses() {
        assert_eq!(outcome(&ask("api.example.com", TYPE_A)), (NO_ERROR, 1));
        assert_eq!(outcome(&ask("API.Example.COM", TYPE_A)), (NO_ERROR, 1));
        assert_eq!(outcome(&ask("many.example.com", TYPE_A)), (NO_ERROR, 15));
        assert_eq!(outcome(&ask("unknown.example.com", TYPE_A)), (SERVER_FAILURE, 0));
        for (name, kind) in [("api.example.com", 28), ("api.example.com", 16), ("api.example.com", 255)] {
            assert_eq!(outcome(&ask(name, kind)), (NO_ERROR, 0), "{name} {kind}");
        }
        for name in ["data.api.example.com", "example.com", "com", "other.example", "xapi.example.com"] {
            assert_eq!(outcome(&ask(name, TYPE_A)), (NO_SUCH_NAME, 0), "{name}");
        }
        let answer = answer(&ask("api.example.com", TYPE_A), find).unwrap();
        assert!(answer.ends_with(&ADDRESS_OF_IT.octets()));
    }

    #[test]
    fn a_message_that_is_no_question_gets_an_error_or_nothing() {
        assert_eq!(answer(&[], find), None);
        let mut reply = ask("api.example.com", TYPE_A);
        reply[2] |= 0x80;
        assert_eq!(answer(&reply, find), None);
        let mut update = ask("api.example.com", TYPE_A);
        update[2] |= 5 << 3;
        assert_eq!(outcome(&update), (NOT_IMPLEMENTED, 0));
        let mut two = ask("api.example.com", TYPE_A);
        two[5] = 2;
        assert_eq!(outcome(&two), (FORMAT_ERROR, 0));
        let whole = ask("api.example.com", TYPE_A);
        for length in HEADER..whole.len() {
            assert_eq!(outcome(&whole[..length]), (FORMAT_ERROR, 0), "{length}");
        }
        let mut pointer = ask("a", TYPE_A);
        pointer[HEADER] = 0xc0;
        assert_eq!(outcome(&pointer), (FORMAT_ERROR, 0));
        let mut dotted = ask("api-example-com", TYPE_A);
        dotted[HEADER + 4] = b'.';
        dotted[HEADER + 12] = b'.';
        assert_eq!(outcome(&dotted), (FORMAT_ERROR, 0));
    }

    proptest::proptest! {
        #[test]
        fn no_message_breaks_it(message in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
            if let Some(answer) = answer(&message, find) {
                proptest::prop_assert!(answer.len() >= HEADER && answer.len() <= message.len() + 16 * MAX_ANSWERS);
            }
        }
    }
}

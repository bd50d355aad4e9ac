//! A conversation over D-Bus with somebody who may say anything, and without end.
//!
//! zbus takes messages of up to 128 MiB and queues what nobody reads; each of hundreds of guests could
//! make the agent grow by that. So the handshake is made here, byte by byte, and what follows is
//! counted on its way to zbus. D-Bus specification, Authentication Protocol and Message Format

use std::{
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream as AsyncStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use zbus::{
    Connection, Guid,
    connection::{
        Builder,
        socket::{ReadHalf, Socket, Split, WriteHalf},
    },
    export::async_trait::async_trait,
};

/// The longest message: what we ask for is answered in some hundred bytes.
const MESSAGE_LIMIT: usize = 16 * 1024;

/// How much may be said in one conversation. Bytes.
const TALK_LIMIT: usize = 256 * 1024;

/// The longest line of the handshake. Bytes.
const LINE_LIMIT: usize = 256;

/// The fixed part of a message's header. Bytes.
const PRIMARY_HEADER: usize = 16;

/// Greets a bus as user id 0 and opens the conversation.
pub async fn talk(stream: UnixStream) -> zbus::Result<Connection> {
    let (mut read, mut write) = AsyncStream::from_std(stream)?.into_split();
    // EXTERNAL takes the user id from the one who speaks: "0" in hexadecimal, as it is inside.
    write.write_all(b"\0AUTH EXTERNAL 30\r\n").await?;
    let answer = line(&mut read).await?;
    let guid = answer
        .strip_prefix("OK ")
        .and_then(|guid| Guid::try_from(guid.to_owned()).ok());
    let guid = guid.ok_or_else(|| refused("its handshake makes no sense"))?;
    write.write_all(b"BEGIN\r\n").await?;
    let reader = Reader {
        stream: read,
        header: Vec::with_capacity(PRIMARY_HEADER),
        rest: 0,
        left: TALK_LIMIT,
    };
    let bus = Stream {
        reader,
        writer: Writer(write),
    };
    let connection = Builder::authenticated_socket(bus, guid).build().await?;
    // A bus takes no other call before this one.
    connection
        .call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            Some("org.freedesktop.DBus"),
            "Hello",
            &(),
        )
        .await?;
    Ok(connection)
}

/// One line of the handshake, without its end. Read byte by byte: what follows is zbus's.
async fn line(read: &mut OwnedReadHalf) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LINE_LIMIT {
            return Err(refused("its handshake has no end"));
        }
        line.push(read.read_u8().await?);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).map_err(|_| refused("its handshake is no text"))
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Both halves of the stream, once the handshake is done.
#[derive(Debug)]
struct Stream {
    reader: Reader,
    writer: Writer,
}

impl Socket for Stream {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        Split::new(self.reader, self.writer)
    }
}

/// Counts what comes in, message by message. File descriptors that come along are dropped by the
/// kernel, because read(2) takes none: closing one could hang.
#[derive(Debug)]
struct Reader {
    stream: OwnedReadHalf,
    /// What is known of the next message's header.
    header: Vec<u8>,
    /// How much of the message before is still to come.
    rest: usize,
    /// How much may still be said in all.
    left: usize,
}

impl Reader {
    fn count(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(bytes.len())
            .ok_or_else(|| refused("it says too much"))?;
        while !bytes.is_empty() {
            let within = self.rest.min(bytes.len());
            self.rest -= within;
            bytes = &bytes[within..];
            let missing = (PRIMARY_HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.header.len() == PRIMARY_HEADER {
                self.rest = rest_of_message(&self.header)?;
                self.header.clear();
            }
        }
        Ok(())
    }
}

/// How many bytes follow a message's primary header.
fn rest_of_message(header: &[u8]) -> io::Result<usize> {
    let number = |at: usize| {
        let bytes = header.get(at..)?.first_chunk::<4>()?;
        let number = match header.first()? {
            b'l' => u32::from_le_bytes(*bytes),
            b'B' => u32::from_be_bytes(*bytes),
            _ => return None,
        };
        usize::try_from(number)
            .ok()
            .filter(|length| *length <= MESSAGE_LIMIT)
    };
    match (number(4), number(12)) {
        (Some(body), Some(fields)) => Ok(fields.next_multiple_of(8) + body),
        _ => Err(refused("its message is too long, or none")),
    }
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let length = self.stream.read(buffer).await?;
        self.count(&buffer[..length])?;
        Ok((length, Vec::new()))
    }
}

/// What we say.
#[derive(Debug)]
struct Writer(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(buffer).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread, time::Duration};

    use super::*;

    const GREETING: &[u8] = b"OK 0123456789abcdef0123456789abcdef\r\n";

    fn header(fields: u32, body: u32) -> Vec<u8> {
        let mut header = vec![b'l', 4, 0, 1];
        for number in [body, 1, fields] {
            header.extend(number.to_le_bytes());
        }
        header
    }

    /// What a talk comes to with somebody who says this, again and again, and then holds the line.
    async fn talk_with(greeting: &'static [u8], said: Vec<u8>) -> String {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let speaker = thread::spawn(move || {
            let mut result = theirs.write_all(greeting);
            while result.is_ok() && !said.is_empty() {
                result = theirs.write_all(&said);
            }
            if said.is_empty() {
                // Until the other end is closed.
                let _ = io::Read::read_to_end(&mut theirs, &mut Vec::new());
            }
        });
        let result = tokio::time::timeout(Duration::from_secs(2), talk(ours)).await;
        let text = match &result {
            Ok(Ok(_)) => "it was believed".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        drop(result);
        speaker.join().unwrap();
        text
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_talks_without_end_is_cut_short() {
        let line = talk_with(b"", vec![b'a'; 4096]).await;
        assert!(line.contains("no end"), "{line}");
        let nonsense = talk_with(b"HELLO\r\n", Vec::new()).await;
        assert!(nonsense.contains("no sense"), "{nonsense}");
        let silent = talk_with(GREETING, Vec::new()).await;
        assert_eq!(silent, "no answer");
        for said in [header(0, 1 << 27), header(u32::MAX, 0), vec![b'x'; 64]] {
            let long = talk_with(GREETING, said).await;
            assert!(long.contains("too long"), "{long}");
        }
    }

    #[test]
    fn what_is_said_is_counted_however_it_is_cut() {
        for cut in [1, 3, 16, 1000] {
            let (stream, _other) = UnixStream::pair().unwrap();
            stream.set_nonblocking(true).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.unwrap();
            let _entered = runtime.enter();
            let (read, _) = AsyncStream::from_std(stream).unwrap().into_split();
            let mut reader = Reader {
                stream: read,
                header: Vec::new(),
                rest: 0,
                left: TALK_LIMIT,
            };
            let message = [header(5, 7), vec![0; 15]].concat();
            let mut counted = 0;
            'all: loop {
                for piece in message.chunks(cut) {
                    if reader.count(piece).is_err() {
                        break 'all;
                    }
                    counted += piece.len();
                }
                assert_eq!((reader.rest, reader.header.len()), (0, 0));
            }
            assert!(counted <= TALK_LIMIT && counted + 1000 > TALK_LIMIT);
            let mut huge = header(0, u32::try_from(MESSAGE_LIMIT).unwrap() + 1);
            reader.left = TALK_LIMIT;
            assert!(
                huge.chunks_mut(cut)
                    .any(|piece| reader.count(piece).is_err())
            );
        }
    }
}

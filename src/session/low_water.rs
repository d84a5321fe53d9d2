//! The receive low-water mark of a socket: how much must have arrived before the kernel wakes whoever waits for it.
//!
//! In: an open [`Socket`](super::Socket). Out: fewer wake-ups, for the side that reads and for the side that sends: a
//! walsender flushes message by message and pays a context switch for each reader that wakes.
//!
//! Only on Linux from 4.18 on, and over TCP (with or without TLS): there epoll honours the mark, and lowering it wakes
//! the reader for what is there already. Where it is not so nothing is ever set.
//!
//! This is the only file with unsafe code: none of the libraries sets `SO_RCVLOWAT`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Sets the mark of one socket. It keeps the socket's file description open, so it must not outlive its use.
#[derive(Debug)]
pub struct LowWater {
    socket: OwnedFd,
}

impl LowWater {
    /// `None` where the mark would do nothing or harm.
    pub(super) fn of(socket: BorrowedFd<'_>) -> Option<LowWater> {
        if !wakes_when_lowered() {
            return None;
        }
        socket.try_clone_to_owned().ok().map(|socket| LowWater { socket })
    }

    /// From now on a reader sleeps until `bytes` are there, or the end of the stream.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set(&self, bytes: u32) -> io::Result<()> {
        let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        let size = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4);
        // SAFETY: the descriptor is open for as long as `self` lives, and the kernel reads `size` bytes of `value`,
        // which outlives the call.
        let done = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const value).cast(),
                size,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Whether the kernel wakes a reader when the mark falls below what has arrived.
fn wakes_when_lowered() -> bool {
    cfg!(target_os = "linux")
        && rustix::system::uname().release().to_str().ok().and_then(version).is_some_and(|it| it >= (4, 18))
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("4.18.0-553.el8.x86_64"), Some((4, 18)));
        assert_eq!(version("3.10"), Some((3, 10)));
        assert_eq!(version("unknown"), None);
    }

    #[tokio::test]
    async fn a_reader_sleeps_below_the_mark_and_wakes_when_it_falls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut reading = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut writing, _) = listener.accept().await.unwrap();
        let Some(mark) = LowWater::of(reading.as_fd()) else { return };
        mark.set(1000).unwrap();
        let mut buffer = Vec::with_capacity(4096);
        writing.write_all(&[7; 999]).await.unwrap();
        timeout(Duration::from_millis(50), reading.read_buf(&mut buffer)).await.unwrap_err();
        writing.write_all(&[7; 1]).await.unwrap();
        assert_eq!(
            timeout(Duration::from_secs(60), reading.read_buf(&mut buffer)).await.unwrap().unwrap(),
            1000
        );

        writing.write_all(&[7; 10]).await.unwrap();
        timeout(Duration::from_millis(50), reading.read_buf(&mut buffer)).await.unwrap_err();
        mark.set(1).unwrap();
        assert_eq!(
            timeout(Duration::from_secs(60), reading.read_buf(&mut buffer)).await.unwrap().unwrap(),
            10
        );

        // The end of the stream needs no bytes.
        mark.set(1000).unwrap();
        drop(writing);
        assert_eq!(
            timeout(Duration::from_secs(60), reading.read_buf(&mut buffer)).await.unwrap().unwrap(),
            0
        );
    }
}

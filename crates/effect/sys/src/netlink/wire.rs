//! How bytes get to the kernel and back.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags};

/// The way to the kernel: a seam, so that a test can make it fail where it likes, or answer in the
/// kernel's place.
pub trait Wire: fmt::Debug + Send {
    /// Sends bytes in one system call.
    ///
    /// # Errors
    /// What the kernel says to the call.
    fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()>;

    /// Takes the next datagram in one system call, waiting for it or not. It replaces what is in
    /// the buffer, as far as its capacity goes. Returns the datagram's own length, even where it
    /// was cut.
    ///
    /// # Errors
    /// What the kernel says to the call.
    fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut Vec<u8>,
        wait: bool,
    ) -> io::Result<usize>;
}

/// The kernel itself.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

impl Wire for Kernel {
    fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
        rustix::net::send(socket, bytes, SendFlags::empty())?;
        Ok(())
    }

    fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut Vec<u8>,
        wait: bool,
    ) -> io::Result<usize> {
        let flags = match wait {
            true => RecvFlags::TRUNC,
            false => RecvFlags::TRUNC | RecvFlags::DONTWAIT,
        };
        buffer.clear();
        let (_, length) = rustix::net::recv(socket, spare_capacity(buffer), flags)?;
        Ok(length)
    }
}

//! A connection to a shim for one program's streams: descriptors go along with questions and
//! answers. When it is dropped the shim ends what it runs for it.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::client::{connect_blocking, encode};
use super::{Answer, Message, Request};

/// One conversation.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    incoming: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    number: u64,
}

impl Session {
    /// Connects to the shim of a pod's folder.
    ///
    /// # Errors
    /// When no shim lives there.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let stream = connect_blocking(folder)?;
        stream.set_nonblocking(true)?;
        Ok(Session {
            stream: UnixStream::from_std(stream)?,
            incoming: Vec::new(),
            descriptors: VecDeque::new(),
            number: 0,
        })
    }

    /// Asks with descriptors (at most three), and waits for the answer and those that come with it.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn ask(
        &mut self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<(Answer, Vec<OwnedFd>)> {
        self.send(request, descriptors).await?;
        self.answer().await
    }

    /// Asks without waiting.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn send(
        &mut self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.number += 1;
        let line = encode(self.number, request)?;
        let mut sent = 0;
        while sent < line.len() {
            let with = if sent == 0 { descriptors } else { &[] };
            sent += self
                .stream
                .async_io(Interest::WRITABLE, || {
                    send(&self.stream, &line[sent..], with)
                })
                .await?;
        }
        Ok(())
    }

    /// Waits for the answer to the last question. May be dropped and called again.
    ///
    /// # Errors
    /// When the shim is gone.
    pub async fn answer(&mut self) -> io::Result<(Answer, Vec<OwnedFd>)> {
        loop {
            while let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') {
                let rest = self.incoming.split_off(end + 1);
                let line = std::mem::replace(&mut self.incoming, rest);
                match serde_json::from_slice(&line)? {
                    Message::Answer { number, answer } if number == self.number => {
                        return Ok((answer, self.descriptors.drain(..).collect()));
                    }
                    Message::Answer { .. } | Message::Ended(_) => {}
                }
            }
            let (data, descriptors) = self
                .stream
                .async_io(Interest::READABLE, || receive(&self.stream))
                .await?;
            if data.is_empty() {
                return Err(io::Error::other("the pod ended"));
            }
            self.incoming.extend_from_slice(&data);
            self.descriptors.extend(descriptors);
        }
    }
}

fn send(stream: &impl AsFd, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("three descriptors do not fit a message"));
    }
    rustix::net::sendmsg(
        stream,
        &[IoSlice::new(data)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map_err(Into::into)
}

fn receive(stream: &impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = [0_u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(all) = message {
            descriptors.extend(all);
        }
    }
    Ok((buffer[..received.bytes].to_vec(), descriptors))
}

//! What is asked of etcd.

use std::fmt;

use tokio::sync::Mutex;
use weft_proto::protobuf::Message;

use crate::call::Connection;
use crate::message::{self, Lease, LeaseId, Listing, Revision};
use crate::watch::{WATCH, Watch};
use crate::{Endpoint, Error, Tls};

const RANGE: &str = "etcdserverpb.KV/Range";
const TXN: &str = "etcdserverpb.KV/Txn";
const GRANT: &str = "etcdserverpb.Lease/LeaseGrant";
const AUTHENTICATE: &str = "etcdserverpb.Auth/Authenticate";
const KEEP: &str = "etcdserverpb.Lease/LeaseKeepAlive";

/// gRPC's status code of who is not known (any more): a token lasts some minutes.
const UNAUTHENTICATED: &str = "16";

/// Who asks, where etcd wants to know (`etcdctl auth enable`).
#[derive(Clone)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// Their password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.user)
    }
}

/// A cluster of etcd. It is asked by one member at a time; one that fails is followed by the next
/// at the next call.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<Endpoint>,
    tls: Option<Tls>,
    credentials: Option<Credentials>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    /// Which endpoint is asked.
    turn: usize,
}

impl Client {
    /// Of these members. Nothing is asked yet.
    pub fn new(
        endpoints: Vec<Endpoint>,
        tls: Option<Tls>,
        credentials: Option<Credentials>,
    ) -> Self {
        Self {
            endpoints,
            tls,
            credentials,
            state: Mutex::default(),
        }
    }

    /// All keys that begin so.
    ///
    /// # Errors
    /// See [`Error`]; so for all that is asked.
    pub async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.call(RANGE, &message::list(prefix), message::listing)
            .await
    }

    /// Writes a key that was last written then (0: that is not there), bound to a lease. `None`:
    /// it was not so; the revision otherwise.
    ///
    /// # Errors
    /// After one it may be written or not.
    pub async fn put(
        &self,
        key: &str,
        value: &str,
        lease: LeaseId,
        written: Revision,
    ) -> Result<Option<Revision>, Error> {
        let message = message::put(key, value, lease, written);
        self.call(TXN, &message, message::transacted).await
    }

    /// A lease that ends after so many seconds, unless it is kept.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn grant(&self, seconds: u64) -> Result<Lease, Error> {
        self.call(GRANT, &message::grant(seconds), message::lease)
            .await
    }

    /// Has a lease last as long again. `false`: it is gone.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn keep(&self, lease: LeaseId) -> Result<bool, Error> {
        let message = message::keep(lease);
        // A stream of one question is a call.
        let kept = self.call(KEEP, &message, message::lease).await?;
        Ok(kept.seconds > 0)
    }

    /// What changes from a revision on, that one included.
    ///
    /// # Errors
    /// See [`Error`]; that the revision is forgotten says [`Watch::next`].
    pub async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let mut connection = self.connection().await?;
        let answers = connection
            .stream(WATCH, &message::watch(prefix, from))
            .await;
        match answers {
            Ok(answers) => Ok(Watch { answers }),
            Err(error) => Err(self.failed(error).await),
        }
    }

    async fn call<T>(
        &self,
        method: &'static str,
        message: &Message,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, Error> {
        let mut connection = self.connection().await?;
        let mut answer = connection.call(method, message).await;
        if self.credentials.is_some()
            && matches!(&answer, Err(Error::Refused { code, .. }) if code == UNAUTHENTICATED)
        {
            self.state.lock().await.connection = None;
            connection = self.connection().await?;
            answer = connection.call(method, message).await;
        }
        match answer {
            Ok(answer) => read(&answer).ok_or_else(|| connection.unreadable(method)),
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// The connection that stands, or a new one.
    async fn connection(&self) -> Result<Connection, Error> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection
            && !connection.is_closed()
        {
            return Ok(connection.clone());
        }
        state.connection = None;
        let turn = state.turn.checked_rem(self.endpoints.len());
        let Some(endpoint) = turn.and_then(|turn| self.endpoints.get(turn)) else {
            return Err(Error::Endpoint {
                text: String::new(),
                reason: "none is given",
            });
        };
        match self.open(endpoint).await {
            Ok(connection) => {
                state.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                state.turn = state.turn.wrapping_add(1);
                Err(error)
            }
        }
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<Connection, Error> {
        let mut connection = Connection::open(endpoint, self.tls.as_ref()).await?;
        if let Some(Credentials { user, password }) = &self.credentials {
            let asked = message::authenticate(user, password);
            let answer = connection.call(AUTHENTICATE, &asked).await?;
            let token = message::token(&answer).and_then(|token| token.try_into().ok());
            let token = token.ok_or_else(|| connection.unreadable(AUTHENTICATE))?;
            connection.present(token);
        }
        Ok(connection)
    }

    /// The next call asks another member: one that is cut off from the others refuses.
    async fn failed(&self, error: Error) -> Error {
        if matches!(&error, Error::Call { .. } | Error::Refused { .. }) {
            let mut state = self.state.lock().await;
            state.connection = None;
            state.turn = state.turn.wrapping_add(1);
        }
        error
    }
}

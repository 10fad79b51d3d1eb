//! What a recorded terminal session says, and whether another one says the same.

pub(crate) mod compare;
pub(crate) mod masks;
pub(crate) mod session;

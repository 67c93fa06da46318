//! The pool suite: reading a row, and taking a connection and giving it back.

pub(crate) mod checkout;
pub(crate) mod peers;
pub(crate) mod point_read;

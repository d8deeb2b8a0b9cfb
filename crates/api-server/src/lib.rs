//! The REST API on a unix socket.

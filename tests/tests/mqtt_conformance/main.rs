//! MQTT 3.1.1 and 5.0 as the running broker speaks them: raw packets over TCP, each test with the statements it holds
//! the broker to. Numbers are those of MQTT 5.0 unless marked `3.1.1:`.
//!
//! That something does *not* arrive is never concluded from silence: a later message that must arrive shows it.
//!
//! With `HEADWATER_CONFORMANCE_AT=host:port` the tests talk to the broker that listens there, to check the tests
//! themselves against another implementation; tests that restart the broker then fail, saying so.

mod bounds;
mod chaos;
mod client;
mod connect;
mod hostile;
mod limits;
mod malformed;
mod publish;
mod qos;
mod retain;
mod session;
mod shared;
mod statements;
mod subscribe;
mod target;
mod will;

//! The MQTT wire format from outside: every packet survives encoding and decoding, no bytes make the decoder panic, and
//! another implementation agrees.

mod agreement;
mod generate;
mod hostile;
mod round_trip;

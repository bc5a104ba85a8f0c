//! The MQTT wire format from outside: every packet survives encoding and decoding, no bytes make the decoder panic,
//! another implementation agrees, and the normative statements of both specifications hold one by one.

mod agreement;
mod generate;
mod hostile;
mod judge;
mod normative;
mod properties;
mod round_trip;
mod sizes;

//! The service as its clients see it: `vesselrt serve` on a port of its own, spoken to by a small client, by curl and by
//! bytes that no client sends.
#![forbid(unsafe_code)]

mod aboard;
mod bay;
mod browser;
mod contract;
mod history;
mod http;
mod invalid;
mod life;
mod limits;
mod page;
mod restart;
mod schema;
mod sdk;
mod sessions;
mod shapes;
mod single;
mod tls;
mod websocket;
mod wire;

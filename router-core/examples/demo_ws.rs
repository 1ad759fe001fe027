//! The smallest WebSocket client to try the router with: `demo_ws 127.0.0.1:8080 shop.example.com hello` opens `/ws` on
//! that host through the router at that address, says each word, and prints what comes back.

#![allow(clippy::print_stdout, reason = "the answer is what this is for")]

use std::error::Error;
use std::net::TcpStream;
use std::time::Duration;

use tokio_tungstenite::tungstenite::{Message, client};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(host)) = (arguments.next(), arguments.next()) else {
        return Err("usage: demo_ws ADDRESS HOST WORD...".into());
    };
    let stream = TcpStream::connect(&address)
        .map_err(|error| format!("cannot connect to {address}: {error}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let (mut socket, response) = client(format!("ws://{host}/ws"), stream)?;
    println!(
        "{} {}",
        response.status(),
        response
            .headers()
            .get("via")
            .and_then(|via| via.to_str().ok())
            .unwrap_or("(no Via)")
    );
    for word in arguments {
        socket.send(Message::text(word))?;
        println!("{}", socket.read()?);
    }
    socket.close(None)?;
    // The other side's close ends the conversation.
    while socket.read().is_ok() {}
    Ok(())
}

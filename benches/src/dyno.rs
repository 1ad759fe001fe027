//! A dyno that costs as little as a dyno can: a thread of its own, fixed answers, kept connections, and an echo after an upgrade.

use std::net::SocketAddr;
use std::sync::mpsc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The body of every answer; an answer ends with it.
pub const BODY: &[u8] = b"Hello, World!";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nDate: Mon, 01 Jan 2029 00:00:00 GMT\r\nServer: dyno\r\n\r\nHello, World!";
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Starts a dyno that serves until the process ends.
pub fn start() -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("dyno".to_owned());
    let run = move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(stream));
                }
            });
    };
    thread.spawn(run).unwrap();
    receiver.recv().unwrap()
}

/// Serves a connection until either side has had enough of it; that it ends in an error is as good as any other end.
async fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut head = Vec::with_capacity(4096);
    loop {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => return,
            Ok(_) if !head.ends_with(b"\r\n\r\n") => continue,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&head);
        if text.contains("\r\nConnection: Upgrade\r\n") {
            return echo(stream).await;
        }
        let last = text.contains("\r\nConnection: close\r\n");
        if stream.write_all(ANSWER).await.is_err() || last {
            return;
        }
        head.clear();
    }
}

async fn echo(mut stream: TcpStream) {
    if stream.write_all(SWITCHED).await.is_err() {
        return;
    }
    let mut bytes = [0; 512];
    while let Ok(read @ 1..) = stream.read(&mut bytes).await {
        if stream
            .write_all(bytes.get(..read).unwrap_or_default())
            .await
            .is_err()
        {
            return;
        }
    }
}

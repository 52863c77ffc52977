//! Runs the test server until killed and prints its address, for trying clients by hand: `kubectl -s ADDRESS --token admin`.

#[tokio::main]
async fn main() {
    let server = skeg_testserver::TestServer::start().await;
    println!("http://{}", server.address);
    std::future::pending::<()>().await;
}

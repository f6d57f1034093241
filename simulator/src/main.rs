//! The simulator as a program, for trying the shop by hand.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use clap::Parser;
use razorpay_simulator::{Account, Simulator};

/// A local stand-in for Razorpay. It knows no real money and believes everything: keep it on this machine.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// 0 lets the system choose
    #[arg(long, default_value_t = 8790)]
    port: u16,
    /// The key that the shop uses
    #[arg(long, default_value = "rzp_test_simulator0001")]
    key_id: String,
    /// The key's secret
    #[arg(long, default_value = "simulator-key-secret")]
    key_secret: String,
    /// Where webhooks are sent, such as http://127.0.0.1:8000/razorpay/webhook
    #[arg(long)]
    webhook_url: Option<String>,
    /// What webhooks are signed with
    #[arg(long, default_value = "simulator-webhook-secret")]
    webhook_secret: String,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let account = Account {
        key_id: args.key_id,
        key_secret: args.key_secret,
        webhook_url: args.webhook_url,
        webhook_secret: args.webhook_secret,
    };
    let simulator = Simulator::start(SocketAddr::new(args.bind, args.port), account)?;
    writeln!(io::stdout(), "listening on http://{}", simulator.address())?;
    simulator.wait();
    Ok(())
}

//! What happens in the shop because time has passed.

use std::sync::Arc;
use std::time::Duration;

use crate::db::{StoreError, orders};
use crate::log;
use crate::web::Shop;

/// How often it is looked whether something is due.
const EVERY: Duration = Duration::from_secs(5);

/// How many orders expire in one transaction.
const BATCH: i64 = 50;

/// Lets orders expire whose payment has not come, until the shop closes.
pub(crate) async fn run(shop: Arc<Shop>) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = expire(&shop).await {
            log::error("orders that wait for their payment", &error);
        }
    }
}

async fn expire(shop: &Arc<Shop>) -> Result<(), StoreError> {
    if !shop.store.read(orders::holds_are_due).await? {
        return Ok(());
    }
    let expired = shop.store.write(|transaction| orders::expire_holds(transaction, BATCH)).await?;
    for id in expired {
        log::info(format_args!("order {id} expired: not paid in time"));
    }
    Ok(())
}

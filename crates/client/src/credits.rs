//! What may be in flight: jobs and payload bytes, as the node granted them.

use parking_lot::Mutex;
use sensorium_wire::limits;
use sensorium_wire::session::GrantHeader;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::ClientError;

pub(crate) struct Credits {
    jobs: Semaphore,
    bytes: Semaphore,
    /// What the semaphores were filled up to.
    granted: Mutex<(u32, u64)>,
}

impl Default for Credits {
    fn default() -> Self {
        Self { jobs: Semaphore::new(0), bytes: Semaphore::new(0), granted: Mutex::new((0, 0)) }
    }
}

impl Credits {
    /// Brings them to what a node grants. What is out stays out, so a smaller grant than before holds in part only.
    pub(crate) fn apply(&self, grant: &GrantHeader) {
        let jobs = grant.jobs_in_flight_max.min(limits::JOBS_IN_FLIGHT_MAX);
        let bytes = grant.bytes_in_flight_max.min(limits::BYTES_IN_FLIGHT_MAX);
        let mut granted = self.granted.lock();
        self.jobs.add_permits(jobs.saturating_sub(granted.0) as usize);
        self.bytes.add_permits(usize::try_from(bytes.saturating_sub(granted.1)).unwrap_or(0));
        let fewer_jobs = self.jobs.forget_permits(granted.0.saturating_sub(jobs) as usize);
        let fewer_bytes = self.bytes.forget_permits(usize::try_from(granted.1.saturating_sub(bytes)).unwrap_or(0));
        granted.0 = jobs.max(granted.0.saturating_sub(u32::try_from(fewer_jobs).unwrap_or(u32::MAX)));
        granted.1 = bytes.max(granted.1.saturating_sub(fewer_bytes as u64));
    }

    /// Waits until a job with so many payload bytes may go.
    pub(crate) async fn take(&self, payload_bytes: usize) -> Result<[SemaphorePermit<'_>; 2], ClientError> {
        // A payload that could never be sent is not worth waiting for: the node would refuse it by its header.
        let bytes = u64::try_from(payload_bytes).unwrap_or(u64::MAX).min(self.granted.lock().1);
        let jobs = self.jobs.acquire().await.map_err(|_| ClientError::Closed)?;
        let bytes = self.bytes.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await;
        Ok([jobs, bytes.map_err(|_| ClientError::Closed)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_followed_up_and_down() {
        let grant = |jobs_in_flight_max, bytes_in_flight_max| GrantHeader {
            jobs_in_flight_max,
            bytes_in_flight_max,
            ..GrantHeader::default()
        };
        let credits = Credits::default();
        let left = || (credits.jobs.available_permits(), credits.bytes.available_permits());
        credits.apply(&grant(10, 1000));
        assert_eq!(left(), (10, 1000));
        let out = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            // More than there ever will be is no reason to wait for ever.
            let large = credits.take(1 << 40).await.unwrap();
            assert_eq!(left(), (9, 0));
            drop(large);
            credits.take(600).await.unwrap()
        });
        credits.apply(&grant(4, 100));
        assert_eq!((left(), *credits.granted.lock()), ((3, 0), (4, 600)));
        drop(out);
        assert_eq!(left(), (4, 600));
        credits.apply(&grant(u32::MAX, u64::MAX));
        let most = (limits::JOBS_IN_FLIGHT_MAX as usize, usize::try_from(limits::BYTES_IN_FLIGHT_MAX).unwrap());
        assert_eq!(left(), most);
    }
}

"""The reconciler: expired leases, expiry of walks, orphaned objects, webhooks."""

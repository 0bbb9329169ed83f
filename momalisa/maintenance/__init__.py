"""The reconciler and its tasks: expired leases, expiry of walks, orphaned objects, webhooks."""

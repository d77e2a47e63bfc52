"""Web Push: browsers and UnifiedPush distributors, each with an endpoint URL of its own."""

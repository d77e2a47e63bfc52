"""The push gateway: takes notifications from homeservers and hands them to push services.

Reading order: `notification` (what arrives), `provider` (the contract with each vendor),
`delivery` (attempts and bounds), `webpush/` (the first vendor), `api` (HTTP), `app` (wiring).
"""

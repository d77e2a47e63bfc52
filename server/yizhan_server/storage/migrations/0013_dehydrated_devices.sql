-- Devices that receive for people who have none signed in (MSC3814), at most one each.

CREATE TABLE dehydrated_device (
    user_id TEXT NOT NULL PRIMARY KEY,
    device_id TEXT NOT NULL,
    -- JSON: the device's private state, encrypted by its owner.
    device_data BLOB NOT NULL
) WITHOUT ROWID;

"""What the tests of several areas share: real servers, real clients, story words."""

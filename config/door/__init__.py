"""What stands before the admin: a bound on wrong passwords and, with ADMIN_REQUIRE_2FA, a second factor."""

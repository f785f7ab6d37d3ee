"""The login to the admin: a limit on wrong passwords and, with ADMIN_REQUIRE_2FA, a second factor."""

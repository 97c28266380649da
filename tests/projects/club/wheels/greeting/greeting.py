HELLO = "Hello, club"

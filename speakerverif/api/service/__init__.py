"""Speaker verification over HTTP and WebSocket, its page, and the same from a microphone."""

"""How a served model is talked to: HTTP, OpenAI's interface, and what is kept of an answer."""

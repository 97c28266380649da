# Copy this to configuration.py, and fill it in.
ALLOWED_HOSTS = []
DATABASE = {"NAME": "gallery", "USER": "", "PASSWORD": "", "HOST": "localhost", "PORT": ""}
SECRET_KEY = ""
GREETING = "Hello"

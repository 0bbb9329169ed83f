# The emulator of Google Cloud Storage, with a folder that a user who is not root may write to: a named volume that is
# mounted there takes over its owner.
FROM fsouza/fake-gcs-server:1.52.3
RUN mkdir /bucket && chown 10001:10001 /bucket
USER 10001:10001

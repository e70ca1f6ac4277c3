"""A Kafka broker with listeners that require a client certificate or a token."""

from __future__ import annotations

from pathlib import Path
from string import Template

from stack.kafka import KafkaBroker
from stack.state import LOOPBACK, StackState
from tests.support.security.certificates import Certificate, CertificateAuthority
from tests.support.security.token_issuer import AUDIENCE, CLIENT_ID, TokenIssuer

# Added to stack/conf/server.properties; the second value of a property wins.
LISTENERS = Template("""
listeners=PLAINTEXT://${host}:${plain},CONTROLLER://${host}:${controller},\
MTLS://${host}:${mtls},TOKEN://${host}:${token}
advertised.listeners=PLAINTEXT://${host}:${plain},CONTROLLER://${host}:${controller},\
MTLS://${host}:${mtls},TOKEN://${host}:${token}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,MTLS:SSL,TOKEN:SASL_SSL
ssl.truststore.type=PEM
ssl.truststore.location=${ca_file}
ssl.keystore.type=PEM
ssl.keystore.location=${keystore}
listener.name.mtls.ssl.client.auth=required
listener.name.token.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.token.oauthbearer.sasl.jaas.config=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.token.oauthbearer.sasl.server.callback.handler.class=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.token.oauthbearer.sasl.oauthbearer.jwks.endpoint.url=${jwks_url}
listener.name.token.oauthbearer.sasl.oauthbearer.expected.audience=${audience}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:CN=${super_user};User:${super_user}
""")


class SecuredBroker(KafkaBroker):
    """Besides its plaintext listener: `mtls` (SSL) and `token` (SASL_SSL with OAUTHBEARER).

    Clients of the plaintext listener and the name CLIENT_ID may do everything, others what ACLs
    allow.
    """

    def __init__(self, root: Path, authority: CertificateAuthority, issuer: TokenIssuer):
        super().__init__(root, StackState(root))
        self._authority, self._issuer = authority, issuer

    @property
    def mtls(self) -> str:
        return f"{LOOPBACK}:{self.state.ports('kafka_mtls')['kafka_mtls']}"

    @property
    def token(self) -> str:
        return f"{LOOPBACK}:{self.state.ports('kafka_token')['kafka_token']}"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        command, environment = super().prepare()
        ports = self.state.ports("kafka", "kafka_controller", "kafka_mtls", "kafka_token")
        listeners = LISTENERS.substitute(
            host=LOOPBACK,
            plain=ports["kafka"],
            controller=ports["kafka_controller"],
            mtls=ports["kafka_mtls"],
            token=ports["kafka_token"],
            ca_file=self._authority.file,
            keystore=self._keystore(self._authority.issue("broker")),
            jwks_url=self._issuer.jwks_url,
            audience=AUDIENCE,
            super_user=CLIENT_ID,
        )
        with (self.folder / "server.properties").open("a", encoding="utf-8") as properties:
            properties.write(listeners)
        allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self._issuer.jwks_url}"
        return [command[0], allowed, *command[1:]], environment

    def _keystore(self, certificate: Certificate) -> Path:
        """The broker takes key and certificate in one file."""
        keystore = self.folder / "keystore.pem"
        keystore.write_text("".join(file.read_text() for file in reversed(certificate)))
        return keystore

"""Configuration that an app reads before anybody has signed in."""

from typing import Annotated

import strawberry

from standpipe.graphql.base import LanguageTag
from standpipe.graphql.context import Ctx
from standpipe.graphql.devices import DevicePlatform
from standpipe.platform.language import LANGUAGES


@strawberry.type(description="What an app needs to know of this server; for everybody.")
class AppConfig:
    """Settings of the operator's."""

    languages: list[LanguageTag] = strawberry.field(
        description="The languages that alerts are told in; any other reads the first of them."
    )
    web_push_public_key: str | None = strawberry.field(
        description="The key that browsers subscribe to pushes with; null while pushes to browsers are not offered."
    )

    @strawberry.field(description="Apps older than this should ask to be updated; null: any version will do.")
    def min_app_version(
        self, info: Ctx, platform: Annotated[DevicePlatform, strawberry.argument(description="What the app runs on.")]
    ) -> str | None:
        return info.context.services.min_app_versions.get(platform.name)


def app_config() -> AppConfig:
    """The configuration; pushes to browsers are not offered yet."""
    return AppConfig(languages=[LanguageTag(language) for language in LANGUAGES], web_push_public_key=None)

"""From a scan to an image: the recipe, the engine, the checks, the warnings.

Public: ``reconstruct``, ``reconstruct_many`` (pipeline); ``reconstruct_folder`` (folder);
``reconstruct_to_folder`` (result_file); ``Recipe``, ``Checks`` (recipe); ``Reconstruction``
(reconstruction); ``Engine`` (engine); ``draw_images`` (sample); ``predict_held_out`` (checks);
``evaluate_volume`` (metrics).
"""
